// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/memory_store.h"

#include <boost/test/unit_test.hpp>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(memory_store)

BOOST_AUTO_TEST_CASE(past_the_end_reads_are_zeros_and_writes_find_no_space)
{
    MemoryStore store(1000);
    BOOST_TEST(bool(store.write(999, Buffer(1, 5))));
    const auto beyond = store.write(999, Buffer(2, 5));
    BOOST_TEST(!beyond);
    BOOST_TEST((beyond.error().code == Errc::no_space));
    Buffer bytes(10, 1);
    BOOST_TEST(bool(store.read(999, bytes)));
    BOOST_TEST(bytes[0] == 5);
    BOOST_TEST(all_zero(sub(Bytes(bytes), 1, 9)));
}

BOOST_AUTO_TEST_CASE(grows_in_steps_up_to_the_limit_and_knows_what_is_fresh)
{
    MemoryStore store(1000, {.growth_step = 4096, .size_limit = 10000});
    BOOST_TEST(store.fresh_from() == 1000u);
    BOOST_TEST(bool(store.grow(1001)));
    BOOST_TEST(store.size() == 4096u);
    BOOST_TEST(bool(store.grow(9000)));
    BOOST_TEST(store.size() == 10000u);
    BOOST_TEST(!store.grow(10001));
    BOOST_TEST(store.fresh_from() == 1000u);
    BOOST_TEST(bool(store.cut(5000)));
    BOOST_TEST(store.size() == 5000u);
    BOOST_TEST(bool(store.grow(500)));
    BOOST_TEST(store.size() == 5000u);
}

BOOST_AUTO_TEST_CASE(a_store_that_cannot_grow_does_not)
{
    MemoryStore store(1000, {.can_grow = false});
    const auto grown = store.grow(1001);
    BOOST_TEST(!grown);
    BOOST_TEST((grown.error().code == Errc::no_space));
    BOOST_TEST(bool(store.cut(10)));
    BOOST_TEST(store.size() == 1000u);
}

BOOST_AUTO_TEST_CASE(sparse_bytes_equal_plain_ones)
{
    for (const std::uint64_t seed : seeds(10)) {
        SEEDED(seed);
        Random random(seed);
        constexpr std::uint64_t size = 40000;
        Buffer plain(size);
        SparseBytes sparse, copy;
        Buffer plain_copy(size);
        for (int step = 0; step < 300; ++step) {
            const Range range = random.range(size, size, SparseBytes::page_size);
            if (random.coin()) {
                Buffer data(range.length(), static_cast<std::uint8_t>(random.between(1, 255)));
                sparse.write(range.begin, data);
                std::copy(data.begin(), data.end(), plain.begin() + range.begin);
            } else {
                sparse.zero(range.begin, range.length());
                std::fill(plain.begin() + range.begin, plain.begin() + range.end, 0);
            }
            if (random.one_in(20)) {
                copy = sparse;
                plain_copy = plain;
            }
            BOOST_REQUIRE(sparse.copy(0, size) == plain);
            BOOST_REQUIRE(copy.copy(0, size) == plain_copy);
            BOOST_REQUIRE_EQUAL(sparse == copy, plain == plain_copy);
        }
        sparse.zero(0, ~std::uint64_t(0));
        BOOST_REQUIRE(sparse == SparseBytes());
    }
}

BOOST_AUTO_TEST_SUITE_END()
