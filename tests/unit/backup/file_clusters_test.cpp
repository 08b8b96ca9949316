// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Which clusters of a disk are in a file, and where: the map, both ways.

#include "core/backup/file_clusters.h"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <set>
#include <vector>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(qcow2_file)

// The map, both ways, against a plain list.
BOOST_AUTO_TEST_CASE(clusters_are_found_in_both_directions)
{
    using Kind = FileClusters::Kind;
    for (const std::uint64_t seed : seeds(40)) {
        SEEDED(seed);
        Random random(seed);
        const std::uint64_t page = 64 * random.between(1, 3), count = random.below(2000);
        FileClusters clusters(count, page);
        std::vector<Kind> expected(count, Kind::absent);
        for (std::uint64_t n = random.below(30); n > 0 && count != 0; --n) {
            const Range range = random.range(count, random.coin() ? 5 : count, page);
            const Kind kind = random.pick({Kind::absent, Kind::data, Kind::zero});
            clusters.set(range, kind);
            std::fill(expected.begin() + std::ptrdiff_t(range.begin),
                      expected.begin() + std::ptrdiff_t(range.end), kind);
        }
        clusters.finish();
        std::uint64_t data = 0;
        std::set<std::uint64_t> used;
        for (std::uint64_t c = 0; c < count; ++c) {
            BOOST_REQUIRE(clusters.kind(c) == expected[c]);
            BOOST_REQUIRE_EQUAL(clusters.data_before(c), data);
            if (expected[c] == Kind::data)
                BOOST_REQUIRE_EQUAL(clusters.data_cluster(data++), c);
            if (expected[c] != Kind::absent)
                used.insert(c / page);
        }
        BOOST_REQUIRE_EQUAL(clusters.data_count(), data);
        BOOST_REQUIRE_EQUAL(clusters.data_before(count), data);
        BOOST_REQUIRE_EQUAL(clusters.used_count(), used.size());
        std::uint64_t n = 0;
        for (std::uint64_t p = 0; p < clusters.pages(); ++p) {
            BOOST_REQUIRE_EQUAL(clusters.is_used(p), used.contains(p));
            BOOST_REQUIRE_EQUAL(clusters.used_before(p), n);
            if (used.contains(p))
                BOOST_REQUIRE_EQUAL(clusters.used_page(n++), p);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
