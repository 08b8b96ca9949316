// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/l2_table.h"

#include <boost/test/unit_test.hpp>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(l2_table)

BOOST_AUTO_TEST_CASE(entries_are_words)
{
    const Geometry geometry{3, 9, 4, false};
    L2Table table(geometry);
    BOOST_TEST(table.entries() == 64u);
    BOOST_TEST(table.get(63).value().index() == ClusterMapping(Unallocated()).index());
    table.set(3, Data{HostOffset(0x1000), true});
    BOOST_TEST(load_be64(&table.bytes()[24]) == 0x8000000000001000u);
    BOOST_TEST(table.copied(3));
    table.clear_copied(3);
    BOOST_TEST((table.get(3).value() == ClusterMapping(Data{HostOffset(0x1000), false})));
    BOOST_TEST(!table.copied(2));
    table.set(3, Unallocated());
    BOOST_TEST((table == L2Table(geometry)));
}

BOOST_AUTO_TEST_CASE(extended_entries_are_two_words)
{
    const Geometry geometry{3, 14, 4, true};
    L2Table table(geometry);
    BOOST_TEST(table.entries() == 1024u);
    const Subclusters parts{HostOffset(0x8000), true, 0x3, 0x80000000};
    table.set(1023, parts);
    BOOST_TEST((table.get(1023).value() == ClusterMapping(parts)));
    BOOST_TEST(load_be64(&table.bytes()[16368]) == 0x8000000000008000u);
    BOOST_TEST(load_be64(&table.bytes()[16376]) == 0x8000000000000003u);
    table.clear_copied(1023);
    BOOST_TEST(!table.copied(1023));
}

BOOST_AUTO_TEST_CASE(what_a_mapping_names)
{
    const Geometry geometry{3, 12, 4, false};
    const auto names = [&](const ClusterMapping &mapping) {
        return named_clusters(mapping, geometry);
    };
    BOOST_TEST((names(Unallocated()) == HostRun{}));
    BOOST_TEST((names(Zero()) == HostRun{}));
    BOOST_TEST((names(Zero{HostOffset(0x3000), false}) == HostRun{HostCluster(3), 1}));
    BOOST_TEST((names(Data{HostOffset(0x3000), false}) == HostRun{HostCluster(3), 1}));
    BOOST_TEST((names(Subclusters{}) == HostRun{}));
    BOOST_TEST((names(Subclusters{HostOffset(0x3000), true, 0, 0}) == HostRun{HostCluster(3), 1}));
    // Compressed data end where their last sector does.
    BOOST_TEST((names(Compressed{HostOffset(0x3f00), 0x100}) == HostRun{HostCluster(3), 1}));
    BOOST_TEST((names(Compressed{HostOffset(0x3f00), 0x101}) == HostRun{HostCluster(3), 2}));
    // The guest's clusters in a data file are not counted.
    Geometry apart = geometry;
    apart.data_file = true;
    BOOST_TEST((named_clusters(Data{HostOffset(0x3000), true}, apart) == HostRun{}));
}

BOOST_AUTO_TEST_SUITE_END()
