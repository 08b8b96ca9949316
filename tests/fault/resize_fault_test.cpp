// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the n-th I/O fails while the disk gets another size?

#include "tests/support/image_builder.h"
#include "tests/support/structural.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(resize_fault)

namespace {

// Data on both sides of either end, all kinds of bitmaps.
ImageSpec spec_of(Random &random)
{
    ImageSpec spec = random_spec(random, random.pick<std::uint32_t>({9, 12, 16}), 200000);
    spec.version = 3;
    if (spec.refcount_order == 0)
        spec.refcount_order = 4;
    const std::uint64_t clusters = spec.geometry().clusters_for(spec.size);
    for (std::uint64_t i = 0; i < clusters; i += 2)
        spec.clusters[i] =
            random.pick({Preset::data, Preset::shared_data, Preset::zero_with_cluster});
    spec.snapshot = true;
    spec.bitmaps = {
        {.name = "fine", .granularity_bits = 9, .set = {{0, 3}}, .extra_data = {}},
        {.name = "frozen",
         .granularity_bits = 12,
         .enabled = false,
         .set = {{0, 1}},
         .extra_data = {}},
        {.name = "broken", .granularity_bits = 16, .in_use = true, .set = {}, .extra_data = {}}};
    return spec;
}

void fail(std::uint64_t seed, std::uint64_t numerator, std::uint64_t denominator)
{
    SEEDED(seed);
    Random random(seed);
    const ImageSpec spec = spec_of(random);
    const std::uint64_t size = align_up(spec.size * numerator / denominator + 700, 512);
    BOOST_TEST_INFO_SCOPE(spec.text() << ", to " << size);
    const Structural structural(build_image(spec).image,
                                [size](Disk &disk) { return disk.resize(size); }, {},
                                {.growth_step = random.pick<std::uint64_t>({1, 65536})});
    BOOST_REQUIRE_EQUAL(structural.after().size, size);
    const std::uint64_t trials = structural.fail_at_every_io();
    BOOST_TEST_MESSAGE(trials << " faults");
    BOOST_TEST(trials > 10u);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_disk_grows)
{
    for (const std::uint64_t seed : seeds(5))
        fail(seed, 5, 2);
}

BOOST_AUTO_TEST_CASE(a_disk_is_cut)
{
    for (const std::uint64_t seed : seeds(5))
        fail(seed, 2, 5);
}

BOOST_AUTO_TEST_SUITE_END()
