// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// MetadataMap against two plain sets of numbers.

#include "core/image/metadata_map.h"

#include <set>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(metadata_map_model)

namespace {

using Numbers = std::set<std::uint64_t>;

bool overlaps(const Numbers &numbers, HostRun run)
{
    const auto it = numbers.lower_bound(run.first.value);
    return it != numbers.end() && *it < run.end().value;
}

void add(Numbers &numbers, HostRun run)
{
    for (std::uint64_t i = 0; i < run.count; ++i)
        numbers.insert(run.first.value + i);
}

void take_out(Numbers &numbers, HostRun run)
{
    numbers.erase(numbers.lower_bound(run.first.value), numbers.lower_bound(run.end().value));
}

}  // namespace

BOOST_AUTO_TEST_CASE(equals_two_sets, *one_thread())
{
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        MetadataMap map;
        Numbers own, snapshots;
        // Runs that are few in a page, or many, or over several; far from zero too.
        const std::uint64_t base =
            random.pick({0, 1, 60000}) + (random.coin() ? std::uint64_t(1) << 40 : 0);
        const std::uint64_t reach = random.pick({20, 3000, 70000, 300000});
        const std::uint64_t length_max = random.pick({1, 5, 500, 7000});
        std::vector<unsigned> weights;
        for (int i = 0; i < 6; ++i)
            weights.push_back(unsigned(random.between(1, 9)));
        for (int step = 0; step < 1000; ++step) {
            const HostCluster first(base + random.below(reach));
            const HostRun run{first, random.between(step % 7 == 0 ? 0 : 1, length_max)};
            const HostRun one{first, 1};
            switch (random.weighted(weights)) {
            case 0:
                BOOST_REQUIRE_EQUAL(map.add(run), !overlaps(own, run) && !overlaps(snapshots, run));
                add(own, run);
                break;
            case 1:
                BOOST_REQUIRE_EQUAL(map.add_l2_table(first), !overlaps(own, one));
                add(own, one);
                break;
            case 2:
                BOOST_REQUIRE_EQUAL(map.add_snapshot_l2_table(first), !overlaps(own, one));
                add(snapshots, one);
                break;
            case 3:
                map.remove(run);
                take_out(own, run);
                break;
            case 4:
                BOOST_REQUIRE_EQUAL(map.overlaps(run),
                                    overlaps(own, run) || overlaps(snapshots, run));
                break;
            default: BOOST_REQUIRE_EQUAL(map.overlaps_own(run), overlaps(own, run));
            }
        }
    }
}

// What the filter takes for the same is told apart.
BOOST_AUTO_TEST_CASE(clusters_far_from_each_other)
{
    MetadataMap map;
    map.add({HostCluster(5), 2});
    for (std::uint64_t shift = 16; shift < 50; ++shift) {
        BOOST_TEST(!map.overlaps({HostCluster((std::uint64_t(1) << shift) + 5), 1}));
        BOOST_TEST(
            map.overlaps({HostCluster(6), std::uint64_t(1) << std::min<std::uint64_t>(shift, 24)}));
    }
}

BOOST_AUTO_TEST_SUITE_END()
