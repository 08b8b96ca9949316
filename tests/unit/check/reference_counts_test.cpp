// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/reference_counts.h"

#include <boost/test/unit_test.hpp>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(reference_counts)

BOOST_AUTO_TEST_CASE(counts_where_something_is_named)
{
    ReferenceCounts counts;
    BOOST_TEST(counts.page_indices().empty());
    counts.add(5, 1, Use::guest);
    counts.add(5, 2, Use::guest);
    counts.add(std::uint64_t(1) << 50, 1, Use::sole);
    counts.add(6, 1, Use::l2_table);
    BOOST_TEST(counts.page(0)[5].count() == 3u);
    BOOST_TEST(counts.page(0)[6].count() == 1u);
    BOOST_TEST(counts.page(0)[7].count() == 0u);
    BOOST_TEST(counts.page(1) == nullptr);
    const std::vector<std::uint64_t> expected{0, (std::uint64_t(1) << 50) / ReferenceCounts::page_clusters};
    BOOST_TEST(counts.page_indices() == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_count_stays_at_its_maximum)
{
    ReferenceCounts counts;
    counts.add(0, ~std::uint64_t(0), Use::guest);
    counts.add(0, 1, Use::guest);
    BOOST_TEST(counts.page(0)[0].count() == ReferenceCounts::count_max);
    BOOST_TEST(counts.page(0)[0].is(Use::guest));
    BOOST_TEST(!counts.page(0)[0].is(Use::l2_table));
}

BOOST_AUTO_TEST_CASE(uses_that_go_together)
{
    const auto well = [](std::initializer_list<Use> uses) {
        ReferenceCounts counts;
        for (const Use use : uses)
            counts.add(0, 1, use);
        return counts.page(0)[0].well_used();
    };
    BOOST_TEST(well({Use::guest}));
    BOOST_TEST(well({Use::guest, Use::guest}));
    BOOST_TEST(well({Use::l2_table, Use::l2_table}));
    BOOST_TEST(well({Use::sole}));
    BOOST_TEST(!well({Use::sole, Use::sole}));
    BOOST_TEST(!well({Use::sole, Use::guest}));
    BOOST_TEST(!well({Use::l2_table, Use::sole}));
    BOOST_TEST(!well({Use::l2_table, Use::guest}));
}

BOOST_AUTO_TEST_SUITE_END()
