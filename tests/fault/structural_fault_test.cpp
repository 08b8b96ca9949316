// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the n-th I/O fails while the structure changes?
// tests/support/structural.h

#include "tests/support/bitmap_operations.h"
#include "tests/support/image_builder.h"
#include "tests/support/structural.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(structural_fault)

namespace {

void fail(const ImageSpec &spec, const StoreImage &image, const Structural::Operation &operation,
          Random &random, const DiskOptions &options = {})
{
    BOOST_TEST_INFO_SCOPE(spec.text());
    const Structural structural(image, operation, options,
                                {.growth_step = random.pick<std::uint64_t>({1, 65536})});
    const std::uint64_t trials = structural.fail_at_every_io();
    BOOST_TEST_MESSAGE(trials << " faults");
    BOOST_TEST(trials > 10u);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_bitmap_is_made)
{
    for (const std::uint64_t seed : seeds(5)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec = random_spec(random, random.pick<std::uint32_t>({9, 12, 16}), 300000);
        spec.version = 3;
        DiskOptions options;
        options.bitmaps = {"made"};
        fail(
            spec, build_image(spec).image, [](Disk &disk) { return disk.begin_writing(); }, random,
            options);
    }
}

BOOST_AUTO_TEST_CASE(each_operation_on_bitmaps)
{
    for (const BitmapOperation &operation : bitmap_operations())
        for (const std::uint64_t seed : seeds(2)) {
            SEEDED(seed);
            BOOST_TEST_INFO_SCOPE(operation.name);
            Random random(seed);
            const ImageSpec spec = spec_for(operation, random);
            fail(spec, image_for(operation, spec), operation.on_disk(), random);
        }
}

BOOST_AUTO_TEST_SUITE_END()
