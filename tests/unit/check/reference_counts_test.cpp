// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/reference_counts.h"

#include <boost/test/unit_test.hpp>

#include <map>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(reference_counts)

BOOST_AUTO_TEST_CASE(counts_where_something_is_named)
{
    ReferenceCounts counts;
    BOOST_TEST(counts.page_indices().empty());
    counts.add(5, 1, Use::guest);
    counts.add(5, 2, Use::guest);
    counts.add(std::uint64_t(1) << 50, 1, Use::sole);
    counts.add(6, 1, Use::l2_table);
    BOOST_TEST(counts.of(5).count() == 3u);
    BOOST_TEST(counts.of(6).count() == 1u);
    BOOST_TEST(counts.of(7).count() == 0u);
    ReferenceCounts::Words words;
    BOOST_TEST(!counts.page(1, words));
    BOOST_TEST(counts.page(0, words));
    BOOST_TEST((words[5].count() == 3u && words[6].is(Use::l2_table) && words[7].count() == 0u));
    const std::vector<std::uint64_t> expected{0, (std::uint64_t(1) << 50) /
                                                     ReferenceCounts::page_clusters};
    BOOST_TEST(counts.page_indices() == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_count_stays_at_its_maximum)
{
    ReferenceCounts counts;
    counts.add(0, ~std::uint64_t(0), Use::guest);
    counts.add(0, 1, Use::guest);
    BOOST_TEST(counts.of(0).count() == ReferenceCounts::count_max);
    BOOST_TEST(counts.of(0).is(Use::guest));
    BOOST_TEST(!counts.of(0).is(Use::l2_table));
}

// Runs and single ones, in any order, against a plain map.
BOOST_AUTO_TEST_CASE(pages_of_every_kind)
{
    constexpr std::uint64_t page = ReferenceCounts::page_clusters;
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        ReferenceCounts counts;
        std::map<std::uint64_t, std::uint64_t> model;
        const std::uint64_t singles = random.pick<std::uint64_t>({3, 100, 3000});
        for (std::uint64_t i = 0; i < singles; ++i) {
            const bool run = random.below(singles) < 3;
            const std::uint64_t first = random.below(4 * page);
            const std::uint64_t count = run ? 1 + random.below(3 * page) : 1;
            counts.add_run(first, count, 1 + i % 2, Use::guest);
            for (std::uint64_t c = first; c < first + count; ++c)
                model[c] += 1 + i % 2;
        }
        ReferenceCounts::Words words;
        for (std::uint64_t p = 0; p < 8; ++p) {
            const bool named = counts.page(p, words);
            for (std::uint64_t c = p * page; c < (p + 1) * page; ++c) {
                BOOST_REQUIRE(counts.of(c).count() == model[c]);
                BOOST_REQUIRE(words[c % page].count() == model[c]);
                BOOST_REQUIRE((named || model[c] == 0));
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(uses_that_go_together)
{
    const auto well = [](std::initializer_list<Use> uses) {
        ReferenceCounts counts;
        for (const Use use : uses)
            counts.add(0, 1, use);
        return counts.of(0).well_used();
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
