// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A header and extensions, to be put together and taken apart.

#pragma once

#include "core/format/extensions.h"

#include <boost/test/unit_test.hpp>

#include <string>
#include <utility>
#include <vector>

#include "tests/unit/format/bytes_by_hand.h"

namespace extensions {

using namespace qcow2;
using namespace qcow2::test;

inline Buffer text(const std::string &s) { return Buffer(s.begin(), s.end()); }

inline Header good_header()
{
    Header h;
    h.cluster_bits = 12;
    h.size = 1 << 20;
    h.l1_size = 1;
    h.l1_table_offset = HostOffset(0x3000);
    h.refcount_table_offset = HostOffset(0x1000);
    h.refcount_table_clusters = 1;
    return h;
}

inline Extension feature_names(std::size_t entries)
{
    Extension e{ExtensionType::feature_names, Buffer(entries * 48)};
    for (std::size_t i = 0; i < entries; ++i) {
        e.data[i * 48 + 1] = static_cast<std::uint8_t>(i);
        e.data[i * 48 + 2] = static_cast<std::uint8_t>('a' + i);
    }
    return e;
}

inline BitmapsExtension some_bitmaps() { return {1, 32, HostOffset(0x5000)}; }

inline Buffer encoded(const HeaderArea &area, Bytes old = {})
{
    auto bytes = encode_header_area(area, old);
    BOOST_REQUIRE_MESSAGE(bytes, said(bytes));
    return *std::move(bytes);
}

inline std::uint64_t encoded_size(const std::vector<Extension> &extensions)
{
    std::uint64_t size = 0;
    for (const Extension &e : extensions)
        size += e.encoded_size();
    return size;
}

}  // namespace extensions
