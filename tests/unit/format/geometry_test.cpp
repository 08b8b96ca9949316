// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/geometry.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace qcow2;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(geometry)

BOOST_AUTO_TEST_CASE(what_QEMU_makes_by_default)
{
    const Geometry g;
    BOOST_TEST(g.cluster_size() == 65536u);
    BOOST_TEST(g.l2_entries() == 8192u);
    BOOST_TEST(g.l2_reach() == 512u << 20);
    BOOST_TEST(g.refcount_bits() == 16u);
    BOOST_TEST(g.refcount_max() == 0xffffu);
    BOOST_TEST(g.refcount_block_entries() == 32768u);
    BOOST_TEST(g.l1_entries_for(0) == 0u);
    BOOST_TEST(g.l1_entries_for(1) == 1u);
    BOOST_TEST(g.l1_entries_for(std::uint64_t(1) << 30) == 2u);
    BOOST_TEST(g.l1_entries_for((std::uint64_t(1) << 30) + 1) == 3u);
}

BOOST_AUTO_TEST_CASE(extended_l2_entries_are_twice_as_long)
{
    const Geometry g{3, 16, 4, true};
    BOOST_TEST(g.l2_entries() == 4096u);
    BOOST_TEST(g.l2_reach() == 256u << 20);
}

BOOST_DATA_TEST_CASE(indices_and_offsets_belong_together, data::xrange(9u, 22u), cluster_bits)
{
    const Geometry g{3, cluster_bits, 4, false};
    const GuestOffset offset(g.l2_reach() * 5 + g.cluster_size() * 7 + 11);
    const GuestCluster cluster = g.cluster_of(offset);
    BOOST_TEST(g.l1_index(cluster) == 5u);
    BOOST_TEST(g.l2_index(cluster) == 7u);
    BOOST_TEST(g.in_cluster(offset) == 11u);
    BOOST_TEST((g.offset_of(cluster) + 11 == offset));
    BOOST_TEST(g.is_aligned(HostOffset(g.cluster_size() * 3)));
    BOOST_TEST(!g.is_aligned(HostOffset(g.cluster_size() * 3 + 256)));
}

BOOST_DATA_TEST_CASE(a_refcount_block_is_one_cluster, data::xrange(0u, 7u), refcount_order)
{
    const Geometry g{3, 12, refcount_order, false};
    BOOST_TEST(g.refcount_block_entries() * g.refcount_bits() == 4096u * 8);
    BOOST_TEST(g.refcount_max() == (refcount_order == 6
                                        ? ~std::uint64_t(0)
                                        : (std::uint64_t(1) << (1u << refcount_order)) - 1));
}

BOOST_AUTO_TEST_SUITE_END()
