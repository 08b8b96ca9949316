// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/table_entry.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "tests/unit/format/bytes_by_hand.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(table_entry)

namespace {

const Geometry geometry;  // clusters of 64K
const Geometry small{3, 9, 4, false};

std::uint64_t bit(unsigned n) { return std::uint64_t(1) << n; }

}  // namespace

BOOST_AUTO_TEST_CASE(l1_entries)
{
    const auto entry = decode_l1_entry(0x8000000000040000, geometry);
    BOOST_REQUIRE(entry);
    BOOST_TEST(entry->present());
    BOOST_TEST(entry->copied());
    BOOST_TEST(entry->l2_table().value == 0x40000u);
    BOOST_TEST((*entry == L1Entry::of(HostOffset(0x40000), true)));
    BOOST_TEST(L1Entry::of(HostOffset(0x40000), false).raw() == 0x40000u);
    BOOST_TEST(!decode_l1_entry(0, geometry)->present());
    BOOST_TEST(decode_l1_entry(0x200, small)->present());
}

BOOST_DATA_TEST_CASE(each_bit_of_an_l1_entry, data::xrange(0u, 64u), n)
{
    const auto entry = decode_l1_entry(0x40000 | bit(n), geometry);
    if (n < 9 || (n >= 56 && n < 63))
        BOOST_TEST(is(entry, Finding::l1_entry_reserved_bits));
    else if (n < 16)
        BOOST_TEST(is(entry, Finding::l1_entry_unaligned));
    else
        BOOST_TEST(entry.has_value());
}

BOOST_DATA_TEST_CASE(each_bit_of_a_refcount_table_entry, data::xrange(0u, 64u), n)
{
    const auto block = decode_refcount_table_entry(0x20000 | bit(n), geometry);
    if (n < 9)
        BOOST_TEST(is(block, Finding::refcount_table_entry_reserved_bits));
    else if (n < 16)
        BOOST_TEST(is(block, Finding::refcount_block_unaligned));
    else
        BOOST_TEST(block->value == (0x20000 | bit(n)));
}

BOOST_AUTO_TEST_CASE(an_absent_refcount_block)
{
    BOOST_TEST(decode_refcount_table_entry(0, geometry)->value == 0u);
}

BOOST_DATA_TEST_CASE(each_bit_of_a_bitmap_table_entry, data::xrange(0u, 64u), n)
{
    const auto entry = decode_bitmap_table_entry(0xa0000 | bit(n), geometry);
    if (n < 9 || n >= 56)
        BOOST_TEST(is(entry, Finding::bitmap_table_entry_reserved_bits));
    else if (n < 16)
        BOOST_TEST(is(entry, Finding::bitmap_table_entry_unaligned));
    else
        BOOST_TEST(entry->data.value == (0xa0000 | bit(n)));
}

BOOST_AUTO_TEST_CASE(bitmap_table_entries_without_a_cluster)
{
    BOOST_TEST((*decode_bitmap_table_entry(0, geometry) == BitmapTableEntry{}));
    const auto ones = decode_bitmap_table_entry(1, geometry);
    BOOST_REQUIRE(ones);
    BOOST_TEST(ones->all_ones);
    BOOST_TEST(!ones->has_cluster());
    BOOST_TEST(ones->raw() == 1u);
    BOOST_TEST((BitmapTableEntry{HostOffset(0xa0000), false}.raw() == 0xa0000u));
}

BOOST_AUTO_TEST_SUITE_END()
