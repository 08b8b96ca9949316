// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/refcount_block.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <random>
#include <vector>

#include "tests/unit/format/bytes_by_hand.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(refcount_block)

namespace {

std::uint64_t max_of(unsigned order)
{
    return order == 6 ? ~std::uint64_t(0) : (std::uint64_t(1) << (1u << order)) - 1;
}

const auto orders = data::xrange(0u, 7u);

}  // namespace

// Below 8 bits from the least significant upwards, above them big-endian.
BOOST_AUTO_TEST_CASE(bytes_and_meanings)
{
    struct {
        unsigned order;
        const char *bytes;
        std::vector<std::uint64_t> refcounts;
    } const table[] = {
        {0, "05 80", {1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
        {1, "1b c0", {3, 2, 1, 0, 0, 0, 0, 3}},
        {2, "21 f0", {1, 2, 0, 15}},
        {3, "01 ff", {1, 255}},
        {4, "0001 ff02", {1, 0xff02}},
        {5, "00000001 fe000002", {1, 0xfe000002}},
        {6, "0000000000000001 fe00000000000002", {1, 0xfe00000000000002}},
    };
    for (const auto &line : table) {
        const Buffer bytes = from_hex(line.bytes);
        Buffer stored(bytes.size(), 0);
        for (std::size_t i = 0; i < line.refcounts.size(); ++i) {
            BOOST_TEST(load_refcount(bytes, line.order, i) == line.refcounts[i]);
            store_refcount(stored, line.order, i, line.refcounts[i]);
        }
        BOOST_TEST(stored == bytes, boost::test_tools::per_element());
    }
}

BOOST_DATA_TEST_CASE(storing_one_leaves_the_others, orders, order)
{
    const std::uint64_t entries = 64 * 8 >> order;
    for (const std::uint64_t others : {std::uint64_t(0), max_of(order)}) {
        Buffer bytes(64, others == 0 ? 0x00 : 0xff);
        for (std::uint64_t i = 0; i < entries; ++i) {
            const std::uint64_t value = max_of(order) - others;
            store_refcount(bytes, order, i, value);
            for (std::uint64_t k = 0; k < entries; ++k)
                BOOST_REQUIRE(load_refcount(bytes, order, k) == (k == i ? value : others));
            store_refcount(bytes, order, i, others);
        }
    }
}

BOOST_DATA_TEST_CASE(find_agrees_with_looking_at_each, orders, order)
{
    std::mt19937 draw(order);
    // A length that is not whole words as well.
    for (const std::size_t size : {64u, 60u, 8u})
        for (int round = 0; round < 200; ++round) {
            Buffer bytes(size);
            const std::uint64_t entries = std::uint64_t(size) * 8 >> order;
            // Sparse, dense, or anything.
            const unsigned kind = draw() % 3;
            for (std::uint64_t i = 0; i < entries; ++i) {
                const bool zero = kind == 0   ? draw() % 50 != 0
                                  : kind == 1 ? draw() % 50 == 0
                                              : draw() % 2;
                store_refcount(bytes, order, i, zero ? 0 : 1 + draw() % max_of(order));
            }
            const std::uint64_t from = draw() % (entries + 1);
            const std::uint64_t end = from + draw() % (entries - from + 1);
            for (const bool zero : {false, true}) {
                std::uint64_t expected = from;
                while (expected < end && (load_refcount(bytes, order, expected) == 0) != zero)
                    ++expected;
                BOOST_REQUIRE(find_refcount(bytes, order, from, end, zero) == expected);
            }
        }
}

BOOST_AUTO_TEST_CASE(find_in_nothing) { BOOST_TEST(find_refcount({}, 4, 0, 0, true) == 0u); }

BOOST_AUTO_TEST_SUITE_END()
