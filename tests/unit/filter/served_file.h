// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A file that is to grow, the layer that serves it, and the store that may make it grow.

#pragma once

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <memory>

#include "filter/local_file.h"
#include "filter/next_store.h"
#include "tests/support/must.h"
#include "tests/unit/filter/fake_nbdkit.h"

namespace growth_test {

using namespace qcow2;
using namespace qcow2::test;

inline constexpr std::uint64_t K = 1 << 10, M = 1 << 20, G = 1 << 30;

// A file and a layer that serves it.
struct Served {
    explicit Served(std::uint64_t size, bool for_writing = true)
        : file(size), bytes(file.path(), true), through(file.path(), for_writing), layer(through)
    {
        // Something to recognise it by.
        Buffer content(std::min<std::uint64_t>(size, 64 * K));
        for (std::size_t i = 0; i < content.size(); ++i)
            content[i] = static_cast<std::uint8_t>(i * 7 + i / 256 + 1);
        BOOST_REQUIRE_EQUAL(bytes.write(0, content), 0);
        before = file.content();
        local = must(LocalFile::open(file.path()));
    }

    std::unique_ptr<NextStore> open()
    {
        auto store = must(NextStore::open(layer.backend(), false, false, local.get()));
        store->allow_growth(*local);
        return store;
    }

    void check_untouched() { BOOST_CHECK(file.content() == before); }

    const TemporaryFile file;
    FakeFile bytes;    // to look at it
    FakeFile through;  // what the layer serves
    FakeLayer layer;
    Buffer before;
    std::unique_ptr<LocalFile> local;
};

}  // namespace growth_test
