// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/rehearsal_store.h"

#include <boost/test/unit_test.hpp>

#include <algorithm>

#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/random.h"
#include "tests/support/recording_store.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(rehearsal_store_test)

// Against flat bytes: what is written is read, and what was there elsewhere. Nothing of it
// goes down.
BOOST_AUTO_TEST_CASE(what_is_written_is_read_and_stays_above)
{
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        constexpr std::uint64_t size = 5 * 4096 + 512;
        MemoryStore memory(StoreImage{});
        must(memory.grow(size));
        Buffer model(size);
        for (std::uint8_t &byte : model)
            byte = static_cast<std::uint8_t>(random.below(256));
        must(memory.write(0, model));
        RecordingStore real(memory);
        RehearsalStore store(real);
        BOOST_TEST(store.size() == size);
        for (int i = 0; i < 100; ++i) {
            const std::uint64_t begin = random.below(size);
            const std::uint64_t length =
                1 + random.below(std::min<std::uint64_t>(size - begin, 9000));
            if (random.one_in(3)) {
                must(store.zero(begin, length, random.coin()));
                std::fill_n(model.begin() + begin, length, 0);
            } else {
                const Buffer bytes(length, static_cast<std::uint8_t>(i + 1));
                must(store.write(begin, bytes));
                std::ranges::copy(bytes, model.begin() + begin);
            }
            const std::uint64_t from = random.below(size);
            Buffer read(std::min<std::uint64_t>(size - from, 1 + random.below(9000)));
            must(store.read(from, read));
            BOOST_REQUIRE(std::ranges::equal(read, sub(Bytes(model), from, read.size())));
            must(store.flush());
        }
        for (const Operation &operation : real.recording().operations)
            BOOST_TEST(!operation.writes());
    }
}

BOOST_AUTO_TEST_CASE(it_never_grows)
{
    MemoryStore real(StoreImage{});
    must(real.grow(8192));
    RehearsalStore store(real);
    BOOST_TEST(!store.can_grow());
    const auto is_full = [](const Result<void> &done) {
        return !done && done.error().code == Errc::no_space;
    };
    BOOST_TEST(is_full(store.grow(8193)));
    BOOST_TEST(is_full(store.write(8000, Buffer(512))));
    BOOST_TEST(is_full(store.zero(8000, 512, true)));
    Buffer read(8192, 1);
    must(store.read(0, read));
    BOOST_TEST((read == Buffer(8192)));  // nothing of these has landed
}

BOOST_AUTO_TEST_SUITE_END()
