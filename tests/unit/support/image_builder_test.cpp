// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What ImageBuilder makes is clean in the eyes of core/check and qemu-img, and
// holds what its reference says.

#include "tests/support/image_builder.h"

#include "core/check/check.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/qemu_img.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(image_builder)

namespace {

void compare_with_reference(const BuiltImage &built)
{
    ImageView view(built.image);
    const ImageReader reader = must(ImageReader::open(view));
    BOOST_REQUIRE_EQUAL(reader.disk_size(), built.reference.size());
    Buffer found(built.reference.size());
    must(reader.read(GuestOffset(0), found));
    const Buffer expected = built.reference.read(GuestOffset(0), found.size());
    BOOST_REQUIRE_EQUAL(payload_difference(GuestOffset(0), expected, found), "");

    const auto bitmaps = must(reader.bitmaps());
    BOOST_REQUIRE_EQUAL(bitmaps.size(), built.reference.bitmaps().size());
    for (const StoredBitmap &bitmap : bitmaps) {
        const ReferenceBitmap &reference = built.reference.bitmaps().at(bitmap.entry.name);
        BOOST_REQUIRE((bitmap.bits == reference.bits));
        BOOST_REQUIRE_EQUAL(bitmap.entry.enabled(), reference.enabled);
        BOOST_REQUIRE_EQUAL(bitmap.entry.in_use(), reference.in_use);
    }
}

void judge(const ImageSpec &spec, bool by_qemu)
{
    BOOST_TEST_INFO_SCOPE(spec.text());
    const BuiltImage built = build_image(spec);
    ImageView view(built.image);
    const CheckReport report = must(check(view));
    BOOST_REQUIRE_MESSAGE(report.sound(), report.text());
    compare_with_reference(built);
    if (by_qemu && spec.qemu_opens()) {
        const Judgement judgement = qemu_img_check(built.image);
        BOOST_REQUIRE_MESSAGE(judgement.status == 0, judgement.output + keep(built.image, "built"));
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(random_images_are_clean)
{
    for (const std::uint64_t seed : seeds(150)) {
        SEEDED(seed);
        Random random(seed);
        judge(random_spec(random), seed % 3 == 0 && have_qemu_img());
    }
}

BOOST_AUTO_TEST_CASE(every_cluster_size_and_refcount_width_is_clean)
{
    for (std::uint32_t cluster_bits = 9; cluster_bits <= 21; ++cluster_bits)
        for (std::uint32_t refcount_order = 0; refcount_order <= 6; ++refcount_order) {
            ImageSpec spec;
            spec.cluster_bits = cluster_bits;
            spec.refcount_order = refcount_order;
            spec.size = 5 << cluster_bits;
            spec.clusters = {{0, Preset::data}, {3, Preset::zero_with_cluster}, {4, Preset::data}};
            spec.bitmaps = {{.set = {{0, 1}}, .extra_data = {}}};
            judge(spec, refcount_order % 3 == 0 && cluster_bits % 4 == 1 && have_qemu_img());
        }
}

BOOST_AUTO_TEST_SUITE_END()
