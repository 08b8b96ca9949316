// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Operations on bitmaps that are out of date or inconsistent: what is believed of them,
// and how they become valid again.

#include <algorithm>

#include "tests/order/altered.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_bitmap_operations)

BOOST_AUTO_TEST_CASE(H4_an_extension_that_nothing_vouches_for_is_never_written_to)
{
    Altered image(with_bitmaps({named("b0")}));
    image.poke(autoclear_byte, {0});
    const Geometry geometry = image.built().area.header.geometry();
    const HostOffset directory = image.directory();
    const HostOffset table = image.built().bitmaps[0].bitmap_table_offset;
    const auto bytes_at = [&](HostOffset offset) {
        return image.memory().image().bytes.copy(offset.value, 4096);
    };
    const Buffer old_directory = bytes_at(directory), old_table = bytes_at(table);

    Disk &disk = image.open();
    must(disk.begin_writing());
    for (std::uint64_t c = 0; c < 100; ++c)
        must(disk.write(GuestOffset(c << 12), Buffer(4096, 1), false));
    must(disk.close());
    BOOST_TEST(image.bitmaps().empty());
    BOOST_TEST((bytes_at(directory) == old_directory && bytes_at(table) == old_table));

    // Resized, and switched to a snapshot, it is as before, too.
    must(image.open().resize(9 << 20));
    must(image.open().create_snapshot({"s", 1700000000, 0}));
    must(image.open().revert("s"));
    BOOST_TEST((bytes_at(directory) == old_directory && bytes_at(table) == old_table));

    // Valid again it comes with a directory and a table of its own; the old clusters leak.
    must(image.run(recover_all_dirty));
    const auto bitmaps = image.bitmaps();
    BOOST_REQUIRE(bitmaps.size() == 1u);
    BOOST_TEST(bitmaps[0].bits.all());
    BOOST_TEST((bytes_at(directory) == old_directory && bytes_at(table) == old_table));
    const CheckReport report = image.checked();
    BOOST_TEST(report.leaks_at_worst(), report.text());
    BOOST_TEST(report.leaks == 3u);
    const StoreImage now = image.memory().image();
    ImageView view(now);
    BOOST_TEST(must(must(ImageReader::open(view)).refcount(geometry.cluster_of(table))) == 1u);
}

// The kind: what is there and cannot be trusted is taken for what was never there.
BOOST_AUTO_TEST_CASE(A1_what_is_out_of_date_is_not_taken_for_what_was_never_there)
{
    Altered image(
        with_bitmaps({named("b0"), named("off", false), named("torn", true, true), named("type")}));
    image.in_entry(3, 16, {77});
    image.poke(autoclear_byte, {0});
    const auto request = [&](std::vector<std::string> names, bool recover) {
        DiskOptions options;
        options.bitmaps = std::move(names);
        options.recover_all_dirty = recover;
        return Disk::open(image.memory(), options);
    };
    const StoreImage before = image.memory().image();
    for (const std::string name : {"b0", "off", "another"}) {
        const auto opened = request({name}, false);
        refused(opened, Errc::busy,
                "bitmap='" + name + "': the bitmaps of the image are out of date");
        refused(opened, Errc::busy, "bitmap-recover=all-dirty makes them valid again");
        refused(opened, Errc::busy, "bitmap-remove-all=yes removes them");
    }
    refused(image.run([](Image &i) { return add_bitmaps(i, {{.name = "b0"}}); }), Errc::busy,
            "out of date");
    refused(image.run([](Image &i) { return remove_bitmap(i, "b0"); }), Errc::busy, "out of date");
    refused(request({"off"}, true), Errc::busy, "bitmap='off': it is disabled");
    refused(request({"type"}, true), Errc::busy,
            "cannot be made valid again: the type of a bitmap is not known");
    BOOST_TEST((image.memory().image().bytes == before.bytes));
    for (const ReportLine &line : must(request({}, false))->report(false)) {
        BOOST_TEST((line.level == LogLevel::warning));
        BOOST_TEST(line.text.find("'b0', 'off', 'torn', 'type'; bitmap-recover") !=
                       std::string::npos,
                   line.text);
    }
    {
        const auto disk = must(request({"b0", "new"}, true));
        must(disk->begin_writing());
        must(disk->close());
    }
    const auto bitmaps = image.bitmaps();
    BOOST_REQUIRE(bitmaps.size() == 4u);
    const std::uint32_t flags[] = {bitmap_flags::auto_, 0, bitmap_flags::auto_,
                                   bitmap_flags::auto_};
    for (std::size_t i = 0; i < 4; ++i) {
        BOOST_TEST(bitmaps[i].entry.flags == flags[i], bitmaps[i].entry.name);
        BOOST_TEST((i == 3 ? bitmaps[i].bits.none() : bitmaps[i].bits.all()),
                   bitmaps[i].entry.name);
    }
    BOOST_TEST(image.checked().leaks_at_worst());
}

// Who knows what it was? All of it may have changed.
namespace {

// Where the bitmaps extension begins.
std::uint64_t extension_of(Altered &image)
{
    const Buffer area = image.memory().image().bytes.copy(0, 4096);
    const Buffer magic = {0x23, 0x85, 0x28, 0x75};
    return std::search(area.begin(), area.end(), magic.begin(), magic.end()) - area.begin();
}

void expect_all_dirty_when_asked_for(Altered &image)
{
    image.poke(autoclear_byte, {0});
    DiskOptions options;
    options.bitmaps = {"b0"};
    refused(Disk::open(image.memory(), options), Errc::busy, "out of date");
    const auto serve = [&] {
        Disk &disk = image.open(options);
        for (const ReportLine &line : disk.report(false))
            BOOST_TEST(line.text.find("and cannot be read: ") != std::string::npos, line.text);
        must(disk.begin_writing());
        must(disk.close());
    };
    // Nobody is asked for: nothing that could be recovered.
    options.recover_all_dirty = true;
    options.bitmaps = {};
    serve();
    BOOST_TEST(image.bitmaps().empty());
    options.bitmaps = {"b0"};
    serve();
    BOOST_REQUIRE(image.bitmaps().size() == 1u);
    BOOST_TEST(image.bitmaps()[0].bits.all());
}

}  // namespace

BOOST_AUTO_TEST_CASE(A1_where_the_directory_cannot_be_read_a_bitmap_that_is_asked_for_is_all_dirty)
{
    Altered image(with_bitmaps({named("b0")}));
    image.poke(image.directory().value, Buffer(64));
    expect_all_dirty_when_asked_for(image);
}

BOOST_AUTO_TEST_CASE(A1_where_the_extension_is_damaged_a_bitmap_that_is_asked_for_is_all_dirty)
{
    for (const auto &[at, bytes] : std::vector<std::pair<std::uint64_t, Buffer>>{
             {4, {0, 0, 0, 16}},               // its length
             {8, {0xff, 0xff, 0xff, 0xff}},    // how many there are
             {16, {0, 0, 0, 1, 0, 0, 0, 0}},   // the size of the directory
             {24, {0, 1, 0, 0, 0, 0, 0, 0}}})  // where it is
        BOOST_TEST_CONTEXT("at " << at)
        {
            Altered image(with_bitmaps({named("b0")}));
            image.poke(extension_of(image) + at, bytes);
            expect_all_dirty_when_asked_for(image);
        }
}

BOOST_AUTO_TEST_CASE(B5_inconsistent_bitmaps_become_all_dirty_where_they_can)
{
    // One whose table is no table, one of an unknown type, two of one name.
    Altered image(with_bitmaps({named("b0", true, true), named("lost", false, true),
                                named("type", true, true), named("twice", true, true),
                                named("tw1ce", true, true), named("good")}));
    image.in_entry(1, 0, Buffer(8, 0xff));
    image.in_entry(2, 16, {9});
    image.in_entry(4, 24 + 2, {'i'});
    DiskOptions options;
    options.recover_all_dirty = true;
    {
        Disk &disk = image.open(options);
        must(disk.begin_writing());
        must(disk.close());
    }
    const StoreImage now = image.memory().image();
    ImageView view(now);
    const auto extension = must(ImageReader::open(view)).bitmaps_extension();
    Buffer bytes =
        now.bytes.copy(extension->bitmap_directory_offset.value, extension->bitmap_directory_size);
    const auto entries = must(decode_bitmap_directory(bytes, extension->nb_bitmaps,
                                                      image.built().area.header.geometry()));
    BOOST_REQUIRE(entries.size() == 6u);
    const std::uint32_t flags[] = {bitmap_flags::auto_, 0, 3,
                                   bitmap_flags::auto_, 3, bitmap_flags::auto_};
    for (std::size_t i = 0; i < 6; ++i)
        BOOST_TEST(entries[i].flags == flags[i],
                   entries[i].name << " has flags " << entries[i].flags);
    BOOST_TEST(image.checked().leaks_at_worst() == false);  // the unknown type
}

BOOST_AUTO_TEST_CASE(B5_recovered_bitmaps_have_all_bits_set_and_a_tail_of_zeros)
{
    ImageSpec spec = with_bitmaps({named("b0", true, true)});
    spec.cluster_bits = 9;
    spec.size = 3 * 1000 * 1000 / 512 * 512;
    spec.bitmaps[0].granularity_bits = 9;
    Altered image(spec);
    // Another table size than the disk needs, as a crash between resizes leaves it.
    image.in_entry(0, 11, {1});
    must(image.run(recover_all_dirty));
    const auto bitmaps = image.bitmaps();  // complains of ones behind the last bit
    BOOST_REQUIRE(bitmaps.size() == 1u);
    BOOST_TEST(bitmaps[0].bits.all());
    BOOST_TEST(bitmaps[0].table.size() == 2u);
    BOOST_TEST(bitmaps[0].table[0].all_ones);
    BOOST_TEST(bitmaps[0].table[1].has_cluster());
    BOOST_TEST(image.checked().leaks_at_worst());
}

// What the one has given up is not yet free when the other looks for room.
BOOST_AUTO_TEST_CASE(H1_recovering_and_making_bitmaps_is_one_commit)
{
    Order order(with_bitmaps({named("torn", true, true)}), {}, [] {
        DiskOptions options = with_new_bitmap();
        options.recover_all_dirty = true;
        return options;
    }());
    const Result<void> begun = order.disk().begin_writing();
    BOOST_REQUIRE_MESSAGE(begun, words(begun));
    const Recording recording = order.recording();
    const HostOffset header(0);
    BOOST_TEST(std::ranges::count_if(recording.operations, [&](const Operation &o) {
                   return word_of(o, header, 4).has_value();
               }) == 1);
    must(order.disk().close());
    order.look([](const ImageReader &reader) {
        const auto bitmaps = must(reader.bitmaps());
        BOOST_REQUIRE(bitmaps.size() == 2u);
        BOOST_TEST(bitmaps[0].bits.all());
        BOOST_TEST((!bitmaps[0].entry.in_use() && bitmaps[1].bits.none()));
    });
}

// What an inconsistent bitmap leads to may be somebody else's: it leaks.
BOOST_AUTO_TEST_CASE(B5_what_others_have_is_not_freed_with_an_inconsistent_bitmap)
{
    const auto words_at = [](HostOffset offset) {
        Buffer word(8);
        store_be64(word.data(), offset.value);
        return word;
    };
    for (const char *where :
         {"L2 table", "refcount block", "snapshot's L1 table", "snapshot table"})
        for (const bool recovers : {true, false}) {
            BOOST_TEST_INFO_SCOPE(where << (recovers ? ", recovered" : ", removed"));
            ImageSpec spec = with_bitmaps({named("torn", true, true), named("good")});
            spec.snapshot = true;
            Altered image(spec);
            const Header header = image.built().area.header;
            const StoreImage before = image.memory().image();
            const auto word = [&](HostOffset at) {
                return HostOffset(load_be64(before.bytes.copy(at.value, 8).data()) &
                                  entry_offset_mask);
            };
            HostOffset other = word(header.l1_table_offset);
            if (where == std::string("refcount block"))
                other = word(header.refcount_table_offset);
            if (where == std::string("snapshot's L1 table"))
                other = word(header.snapshots_offset);
            if (where == std::string("snapshot table"))
                other = header.snapshots_offset;
            image.poke(image.built().bitmaps[0].bitmap_table_offset.value, words_at(other));
            const Geometry geometry = header.geometry();
            const auto count = [&] {
                const StoreImage now = image.memory().image();
                ImageView view(now);
                return must(must(ImageReader::open(view)).refcount(geometry.cluster_of(other)));
            };
            const std::uint64_t counted = count();
            must(image.run(recovers ? recover_all_dirty
                                    : [](Image &i) { return remove_bitmap(i, "torn"); }));
            BOOST_TEST(count() == counted);
            BOOST_TEST(image.bitmaps().size() == (recovers ? 2u : 1u));
            const CheckReport report = image.checked();
            BOOST_TEST(report.leaks_at_worst(), report.text());
        }
}

// A store that is full and cannot grow.
BOOST_AUTO_TEST_CASE(B5_without_room_bitmaps_are_recovered_in_place_or_stay)
{
    DiskOptions options;
    options.recover_all_dirty = true;
    const auto serve = [&](ImageSpec spec, std::uint64_t set_bits, bool recovered) {
        spec.free_every = 0;
        const BuiltImage built = build_image(spec);
        MemoryStore memory(built.image, {.can_grow = false, .size_limit = built.image.size});
        {
            const auto disk = must(Disk::open(memory, options));
            const Result<void> begun = disk->begin_writing();
            BOOST_REQUIRE_MESSAGE(begun, words(begun));
            must(disk->write(GuestOffset(0), Buffer(512, 1), true));
            must(disk->close());
        }
        const StoreImage now = memory.image();
        ImageView view(now);
        const auto bitmaps = must(must(ImageReader::open(view)).bitmaps());
        BOOST_TEST(bitmaps.at(0).entry.in_use() == !recovered);
        BOOST_TEST((bitmaps[0].bits.count() == set_bits), bitmaps[0].bits.count());
        BOOST_TEST(must(check(view)).sound());
    };
    // A last cluster with a tail, that is there.
    serve(with_bitmaps({named("torn", true, true)}), 2048, true);
    // One that is not, but another is: bits 3 and 4 of 16384.
    ImageSpec spec = with_bitmaps({named("torn", true, true)});
    spec.cluster_bits = 9;
    spec.clusters = {{0, Preset::data}};
    spec.size = 5 << 20;
    spec.bitmaps[0].granularity_bits = 9;
    serve(spec, (5 << 20) / 512, true);
    // None at all.
    spec.bitmaps[0].set = {};
    serve(spec, 0, false);
    // One that cannot be trusted is asked for.
    MemoryStore memory(build_image(spec).image,
                       {.can_grow = false, .size_limit = build_image(spec).image.size});
    options.bitmaps = {"torn"};
    refused(must(Disk::open(memory, options))->begin_writing(), Errc::no_space,
            "bitmap='torn': it cannot be made valid again");
}

BOOST_AUTO_TEST_SUITE_END()
