// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the power fails while the structure changes? tests/support/structural.h

#include "tests/support/bitmap_operations.h"
#include "tests/support/image_builder.h"
#include "tests/support/structural.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(structural_crash)

namespace {

// Both `options` and the seed tell what is made.
void crash(const ImageSpec &spec, const StoreImage &image, const Structural::Operation &operation,
           Random &random, const DiskOptions &options = {})
{
    BOOST_TEST_INFO_SCOPE(spec.text());
    const Structural structural(image, operation, options,
                                {.growth_step = random.pick<std::uint64_t>({1, 65536})});
    BOOST_REQUIRE(structural.after() != structural.before());
    const std::uint64_t states = structural.crash_at_every_event(random);
    BOOST_TEST_MESSAGE(states << " crash states");
    BOOST_TEST(states >= 2u);
}

void crash(const ImageSpec &spec, const Structural::Operation &operation, Random &random,
           const DiskOptions &options = {})
{
    crash(spec, build_image(spec).image, operation, random, options);
}

}  // namespace

BOOST_AUTO_TEST_CASE(H1_a_bitmap_is_made_wholly_or_not_at_all)
{
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec = random_spec(random, random.pick<std::uint32_t>({9, 12, 16}), 300000);
        spec.version = 3;
        DiskOptions options;
        options.bitmaps = {"made", std::string(300, 'x')};
        crash(
            spec, [](Disk &disk) { return disk.begin_writing(); }, random, options);
    }
}

BOOST_AUTO_TEST_CASE(H1_each_operation_on_bitmaps_takes_place_wholly_or_not_at_all)
{
    for (const BitmapOperation &operation : bitmap_operations())
        for (const std::uint64_t seed : seeds(6)) {
            SEEDED(seed);
            BOOST_TEST_INFO_SCOPE(operation.name);
            Random random(seed);
            const ImageSpec spec = spec_for(operation, random);
            crash(spec, image_for(operation, spec), operation.on_disk(), random);
        }
}

// What follows the bitmaps extension crosses the first sector, and moves.
BOOST_AUTO_TEST_CASE(H3_the_header_is_never_torn)
{
    Extension unknown{ExtensionType(0x12345678), Buffer(600)};
    for (std::size_t i = 0; i < unknown.data.size(); ++i)
        unknown.data[i] = static_cast<std::uint8_t>(i * 7 + 1);
    Random random(3);
    for (const unsigned names : {0u, 5u}) {
        ImageSpec spec;
        spec.cluster_bits = 12;
        spec.size = 300000;
        spec.clusters = {{0, Preset::data}};
        spec.feature_names = names;
        spec.more_extensions = {unknown};
        DiskOptions options;
        options.bitmaps = {"new"};
        crash(
            spec, [](Disk &disk) { return disk.begin_writing(); }, random, options);
        spec.bitmaps = {{.name = "b0", .granularity_bits = 12, .set = {}, .extra_data = {}}};
        crash(
            spec,
            [](Disk &disk) {
                return disk.restructure([](Image &i) { return remove_bitmap(i, "b0"); });
            },
            random);
    }
}

BOOST_AUTO_TEST_SUITE_END()
