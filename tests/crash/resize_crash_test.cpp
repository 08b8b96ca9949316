// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the power fails while the disk gets another size? Size, content,
// snapshots and bitmaps are wholly as before, or wholly as after.

#include "tests/support/image_builder.h"
#include "tests/support/structural.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(resize_crash)

namespace {

// Where something changes: clusters, tables, granules; and anywhere.
std::uint64_t draw_size(Random &random, const ImageSpec &spec)
{
    const Geometry geometry = spec.geometry();
    const std::uint64_t near = random.below(3 * geometry.cluster_size()) + 512;
    switch (random.below(5)) {
    case 0: return spec.size + near;
    case 1: return spec.size > near ? spec.size - near : 512;
    case 2: return align_up(spec.size, geometry.l2_reach()) + near;
    case 3: return 3 * spec.size;
    default: return random.between(512, 2 * spec.size);
    }
}

std::uint64_t crash(std::uint64_t seed, std::uint32_t cluster_bits, std::uint64_t size_max)
{
    SEEDED(seed);
    Random random(seed);
    ImageSpec spec = random_spec(random, cluster_bits, size_max);
    if (spec.version < 3)  // with snapshots it would be refused
        spec.snapshot = false, spec.clusters.clear();
    const std::uint64_t size = draw_size(random, spec);
    BOOST_TEST_INFO_SCOPE(spec.text() << ", to " << size);
    if (align_up(size, 512) == (spec.size & ~std::uint64_t(511)))
        return 0;
    const Structural structural(build_image(spec).image,
                                [size](Disk &disk) { return disk.resize(size); }, {},
                                {.growth_step = random.pick<std::uint64_t>({1, 65536})});
    BOOST_REQUIRE_EQUAL(structural.after().size, align_up(size, 512));
    return structural.crash_at_every_event(random);
}

void crash_all(unsigned smoke, std::uint32_t cluster_bits, std::uint64_t size_max)
{
    std::uint64_t states = 0;
    for (const std::uint64_t seed : seeds(smoke))
        states += crash(seed, cluster_bits, size_max);
    BOOST_TEST_MESSAGE(states << " crash states");
    BOOST_TEST(states > 0u);
}

}  // namespace

BOOST_AUTO_TEST_CASE(H1_another_size_wholly_or_not_at_all) { crash_all(30, 0, 300000); }

// Several L2 tables, bitmap tables of many entries.
BOOST_AUTO_TEST_CASE(H1_another_size_in_small_clusters) { crash_all(20, 9, 200000); }

BOOST_AUTO_TEST_SUITE_END()
