// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Rules H for a new bitmap.

#include <algorithm>

#include "core/check/check.h"
#include "tests/order/four_bitmaps.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_bitmaps)

BOOST_AUTO_TEST_CASE(H1_a_new_bitmap_takes_effect_by_one_write_of_the_header_sector)
{
    for (const bool others : {false, true}) {
        Order order(others ? four_bitmaps() : order_spec(), {}, with_new_bitmap());
        must(order.disk().begin_writing());
        const std::uint64_t returned = order.now();
        const Recording recording = order.recording();
        const auto bitmaps = bitmaps_of(order);
        const StoredBitmap &bitmap = named(bitmaps, "new");

        const std::size_t commit = recording.find(0, [](const Operation &operation) {
            return operation.writes() && operation.offset < 512;
        });
        BOOST_REQUIRE(commit < recording.operations.size());
        const Operation &header = recording.operations[commit];
        BOOST_TEST((header.range() == Range{0, 512}), recording.text());
        BOOST_TEST(recording.is_durable(header, returned), recording.text());

        // What it names is there, and counted.
        const HostOffset directory = order.look([](const ImageReader &reader) {
            return reader.bitmaps_extension()->bitmap_directory_offset;
        });
        const HostOffset table = bitmap.entry.bitmap_table_offset;
        for (const HostOffset named_now : {directory, table}) {
            BOOST_TEST(durably_written(recording, Range::of(named_now.value, 8), header.begun),
                       recording.text());
            const std::size_t counted = find_word(recording, 0, order.refcount_place(named_now), 2,
                                                  [](std::uint64_t word) { return word == 1; });
            BOOST_REQUIRE(counted < recording.operations.size());
            BOOST_TEST(recording.is_durable(recording.operations[counted], header.begun));
        }

        // Just before, and with that one sector: the old state, the new one.
        StoreImage image = order.built().image;
        for (const Operation &operation : recording.operations)
            if (recording.is_durable(operation, header.begun)) {
                image.size = std::max(image.size, operation.size_after);
                if (operation.writes())
                    image.bytes.write(operation.offset, operation.data);
            }
        for (const bool committed : {false, true}) {
            if (committed)
                image.bytes.write(0, header.data);
            ImageView view(image);
            const CheckReport report = must(check(view));
            BOOST_TEST(report.leaks_at_worst(), report.text());
            const auto found = must(must(ImageReader::open(view)).bitmaps());
            BOOST_TEST(found.size() == (others ? 4u : 0u) + committed);
        }
    }
}

BOOST_AUTO_TEST_CASE(H2_the_bitmaps_extension_comes_first)
{
    Order order(order_spec(), {}, with_new_bitmap());
    must(order.disk().begin_writing());
    const HeaderArea area = order.look([](const ImageReader &reader) { return reader.area(); });
    BOOST_REQUIRE(!area.extensions.empty());
    BOOST_TEST((area.extensions.front().type == ExtensionType::bitmaps));
    BOOST_TEST((area.header.autoclear_features & autoclear::bitmaps) != 0u);
}

BOOST_AUTO_TEST_CASE(H2_what_lies_behind_the_sector_is_written_after_it_is_durable)
{
    ImageSpec spec = order_spec();
    // Longer than a sector.
    spec.more_extensions = {{ExtensionType(0x12345678), Buffer(600, 0x5a)}};
    Order order(spec, {}, with_new_bitmap());
    must(order.disk().begin_writing());
    const Recording recording = order.recording();
    const std::size_t sector = recording.find(
        0, [](const Operation &operation) { return operation.writes() && operation.offset == 0; });
    BOOST_REQUIRE(sector < recording.operations.size());
    BOOST_TEST((recording.operations[sector].range() == Range{0, 512}), recording.text());
    for (const Operation &operation : recording.operations)
        if (operation.writes() && operation.offset < 4096 && operation.range().end > 512)
            BOOST_TEST(recording.is_durable(recording.operations[sector], operation.begun),
                       recording.text());
    const HeaderArea area = order.look([](const ImageReader &reader) { return reader.area(); });
    const Extension *unknown = area.find(ExtensionType(0x12345678));
    BOOST_REQUIRE(unknown);
    BOOST_TEST((unknown->data == Buffer(600, 0x5a)));
}

BOOST_AUTO_TEST_SUITE_END()
