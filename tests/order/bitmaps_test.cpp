// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Rules B as bitmap-sync=on-close needs them. For bitmap-sync=durable:
// durable_test.cpp.

#include "tests/order/four_bitmaps.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_bitmaps)

namespace {

DiskOptions on_close()
{
    DiskOptions options;
    options.bitmap_sync = BitmapSync::on_close;
    return options;
}

const BitmapDirectoryEntry &entry_of(const Order &order, const std::string &name)
{
    for (const BitmapDirectoryEntry &entry : order.built().bitmaps)
        if (entry.name == name)
            return entry;
    throw std::out_of_range(name);
}

HostOffset flags_of(const Order &order, const std::string &name)
{
    const HostOffset directory = order.look([](const ImageReader &reader) {
        return reader.bitmaps_extension()->bitmap_directory_offset;
    });
    return directory + entry_of(order, name).flags_position();
}

// Each of the three requests that change something.
using Request = std::function<void(Order &)>;
const std::vector<std::pair<const char *, Request>> requests = {
    {"write", [](Order &order) { order.write(0, 7); }},
    {"zero", [](Order &order) { must(order.disk().zero(GuestOffset(0), 4096, {})); }},
    {"zero of a part", [](Order &order) { must(order.disk().zero(GuestOffset(10), 100, {})); }},
    {"trim", [](Order &order) { must(order.disk().trim(GuestOffset(0), 4096, true)); }},
};

}  // namespace

BOOST_AUTO_TEST_CASE(B1_in_use_is_durable_before_the_first_tracked_change)
{
    for (const auto &[what, request] : requests) {
        BOOST_TEST_INFO_SCOPE(what);
        Order order(four_bitmaps(), {}, on_close());
        must(order.disk().begin_writing());
        const HostOffset host = order.host_of(0);
        const HostOffset l2 = order.l2_place(0);
        request(order);
        must(order.disk().flush());
        const Recording recording = order.recording();
        // The first thing that touches the data or the mapping.
        const std::size_t change = recording.find(0, [&](const Operation &operation) {
            return operation.writes() && (operation.range().overlaps(Range::of(host.value, 4096)) ||
                                          operation.range().overlaps(Range::of(l2.value, 8)));
        });
        BOOST_REQUIRE_MESSAGE(change < recording.operations.size(), recording.text());
        for (const char *name : {"enabled", "coarse"}) {
            const std::size_t marked =
                find_word(recording, 0, flags_of(order, name), 4,
                          [](std::uint64_t word) { return (word & bitmap_flags::in_use) != 0; });
            BOOST_REQUIRE_MESSAGE(marked < change, name << "\n" << recording.text());
            BOOST_TEST(recording.is_durable(recording.operations[marked],
                                            recording.operations[change].begun),
                       recording.text());
        }
    }
}

// A torn or lost write of the flags must not cost anything else.
BOOST_AUTO_TEST_CASE(B1_in_use_is_set_by_a_write_of_the_flags_word_alone)
{
    Order order(four_bitmaps(), {}, on_close());
    must(order.disk().begin_writing());
    order.write(0, 7);
    const Recording recording = order.recording();
    const HostOffset directory = order.look([](const ImageReader &reader) {
        return reader.bitmaps_extension()->bitmap_directory_offset;
    });
    std::size_t seen = 0;
    for (const Operation &operation : recording.operations)
        if (operation.writes() && operation.range().overlaps(Range::of(directory.value, 4096))) {
            ++seen;
            const Range range = operation.range();
            BOOST_TEST(range.length() == 4u);
            BOOST_TEST((range.begin == flags_of(order, "enabled").value ||
                        range.begin == flags_of(order, "coarse").value));
        }
    BOOST_TEST(seen == 2u);
}

BOOST_AUTO_TEST_CASE(B1_only_enabled_bitmaps_are_marked)
{
    Order order(four_bitmaps(), {}, on_close());
    must(order.disk().begin_writing());
    order.write(0, 7);
    const auto bitmaps = bitmaps_of(order);
    BOOST_TEST(named(bitmaps, "enabled").entry.in_use());
    BOOST_TEST(named(bitmaps, "coarse").entry.in_use());
    BOOST_TEST(!named(bitmaps, "disabled").entry.in_use());
    BOOST_TEST(named(bitmaps, "inconsistent").entry.in_use());
}

BOOST_AUTO_TEST_CASE(B1_the_mark_is_made_once_and_again_after_a_settle)
{
    Order order(four_bitmaps(), {}, on_close());
    must(order.disk().begin_writing());
    const HostOffset flags = flags_of(order, "enabled");
    const auto marks = [&] {
        std::size_t count = 0;
        for (const Operation &operation : order.recording().operations) {
            const auto word = word_of(operation, flags, 4);
            count += word && (*word & bitmap_flags::in_use);
        }
        return count;
    };
    order.write(0, 7);
    order.write(1, 8);
    BOOST_TEST(marks() == 1u);
    must(order.disk().settle());
    BOOST_TEST(marks() == 1u);
    // What the file has already needs no mark.
    order.write(1, 9);
    BOOST_TEST(marks() == 1u);
    order.write(2, 9);
    BOOST_TEST(marks() == 2u);
}

// The write fails because in_use cannot be made durable: nothing went down.
BOOST_AUTO_TEST_CASE(B1_no_change_goes_down_if_the_mark_cannot_be_made)
{
    for (const unsigned kind : {Fault::writes, Fault::flushes}) {
        Order order(four_bitmaps(), {}, on_close());
        must(order.disk().begin_writing());
        const HostOffset host = order.host_of(0);
        order.plan().arm({.kinds = kind, .forever = true});
        BOOST_TEST(!order.disk().write(GuestOffset(0), Buffer(4096, 9), false));
        const Recording recording = order.recording();
        BOOST_TEST(recording.find(0,
                                  [&](const Operation &operation) {
                                      return operation.writes() && operation.range().overlaps(
                                                                       Range::of(host.value, 4096));
                                  }) == recording.operations.size(),
                   recording.text());
    }
}

// A settle that fails when some marks are off, or may be: the next change waits
// for all of them again.
BOOST_AUTO_TEST_CASE(B1_marks_that_are_half_gone_are_made_anew)
{
    unsigned failed = 0;
    for (const unsigned bitmaps : {1, 2})
        for (const bool lands : {false, true})
            for (std::uint64_t nth = 1; nth <= 10; ++nth) {
                BOOST_TEST_INFO_SCOPE(bitmaps << " bitmaps, write " << nth
                                              << " fails, lands: " << lands);
                ImageSpec spec = order_spec();
                spec.bitmaps = {{.name = "a", .granularity_bits = 12, .set = {}, .extra_data = {}}};
                if (bitmaps > 1)
                    spec.bitmaps.push_back(
                        {.name = "b", .granularity_bits = 12, .set = {}, .extra_data = {}});
                Order order(spec, {}, on_close());
                must(order.disk().begin_writing());
                const HostOffset host = order.host_of(1);
                order.write(0, 7);
                order.plan().arm({.kinds = Fault::writes, .nth = nth, .lands = lands});
                failed += !order.disk().settle();
                order.plan().disarm();
                order.store().forget();
                order.write(1, 9);
                const Recording recording = order.recording();
                const std::size_t change = recording.find(0, [&](const Operation &operation) {
                    return operation.writes() &&
                           operation.range().overlaps(Range::of(host.value, 4096));
                });
                BOOST_REQUIRE(change < recording.operations.size());
                const std::uint64_t begun = recording.operations[change].begun;
                for (const StoredBitmap &bitmap : bitmaps_of(order)) {
                    BOOST_TEST((bitmap.entry.in_use() || bitmap.bits.test(1)));
                    // Marked now, if it was not all the time.
                    const std::size_t marked = find_word(
                        recording, 0, flags_of(order, bitmap.entry.name), 4,
                        [](std::uint64_t word) { return (word & bitmap_flags::in_use) != 0; });
                    if (marked < recording.operations.size())
                        BOOST_TEST(recording.is_durable(recording.operations[marked], begun),
                                   recording.text());
                }
                must(order.disk().close());
                for (const StoredBitmap &bitmap : bitmaps_of(order)) {
                    BOOST_TEST(!bitmap.entry.in_use());
                    BOOST_TEST(bitmap.bits.count(Range{0, bitmap.bits.size()}) == 2u);
                }
            }
    BOOST_TEST(failed > 10u);
}

BOOST_AUTO_TEST_CASE(B5_a_bitmap_found_in_use_and_a_disabled_one_are_carried_along)
{
    Order order(four_bitmaps(), {}, on_close());
    const auto before = bitmaps_of(order);
    must(order.disk().begin_writing());
    order.write(0, 7);
    order.write(100, 7);
    must(order.disk().close());
    const auto after = bitmaps_of(order);
    for (const char *name : {"disabled", "inconsistent"}) {
        BOOST_TEST((named(after, name).entry == named(before, name).entry));
        BOOST_TEST((named(after, name).table == named(before, name).table));
        BOOST_TEST((named(after, name).bits == named(before, name).bits));
    }
}

BOOST_AUTO_TEST_CASE(B6_write_zero_and_trim_are_changes)
{
    for (const auto &[what, request] : requests) {
        BOOST_TEST_INFO_SCOPE(what);
        Order order(four_bitmaps(), {}, on_close());
        must(order.disk().begin_writing());
        request(order);
        must(order.disk().settle());
        const auto bitmaps = bitmaps_of(order);
        BOOST_TEST(named(bitmaps, "coarse").bits.test(0));
    }
}

BOOST_AUTO_TEST_CASE(B8_bits_are_durable_before_in_use_is_taken_off)
{
    Order order(four_bitmaps(), {}, on_close());
    must(order.disk().begin_writing());
    order.write(5, 7);
    must(order.disk().settle());
    const std::uint64_t returned = order.now();
    const Recording recording = order.recording();
    for (const char *name : {"enabled", "coarse"}) {
        const HostOffset flags = flags_of(order, name);
        const std::size_t marked = find_word(recording, 0, flags, 4, [](std::uint64_t word) {
            return (word & bitmap_flags::in_use) != 0;
        });
        const std::size_t cleared = find_word(recording, marked, flags, 4, [](std::uint64_t word) {
            return (word & bitmap_flags::in_use) == 0;
        });
        BOOST_REQUIRE(cleared < recording.operations.size());
        const std::uint64_t begun = recording.operations[cleared].begun;
        const auto bitmaps = bitmaps_of(order);
        const StoredBitmap &bitmap = named(bitmaps, name);
        BOOST_REQUIRE(bitmap.table.at(0).has_cluster());
        BOOST_TEST(
            durably_written(recording, Range::of(bitmap.table.at(0).data.value, 4096), begun),
            recording.text());
        // If the cluster is new: its name too.
        if (entry_of(order, name).name == "coarse") {
            const std::size_t tabled =
                find_word(recording, 0, bitmap.entry.bitmap_table_offset, 8,
                          [&](std::uint64_t word) { return word == bitmap.table[0].data.value; });
            BOOST_REQUIRE(tabled < recording.operations.size());
            BOOST_TEST(recording.is_durable(recording.operations[tabled], begun));
        }
        BOOST_TEST(recording.is_durable(recording.operations[cleared], returned));
    }
}

BOOST_AUTO_TEST_CASE(B8_each_bitmap_is_exactly_what_was_touched)
{
    Order order(four_bitmaps(), {}, on_close());
    must(order.disk().begin_writing());
    must(order.disk().write(GuestOffset(5 * 4096 + 4095), Buffer(2, 1), false));
    must(order.disk().settle());
    BitVector fine(2048), coarse(8);
    fine.set(0);  // from before
    fine.set(Range{5, 7});
    coarse.set(0);
    const auto bitmaps = bitmaps_of(order);
    BOOST_TEST((named(bitmaps, "enabled").bits == fine));
    BOOST_TEST((named(bitmaps, "coarse").bits == coarse));
    BOOST_TEST(!named(bitmaps, "enabled").entry.in_use());
    BOOST_TEST(!named(bitmaps, "coarse").entry.in_use());
}

BOOST_AUTO_TEST_SUITE_END()
