// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Operations on bitmaps: what they refuse, what they leave alone, and by which
// write they take effect. That they take place wholly or not at all is shown by
// tests/crash and tests/fault; what the bits are, by tests/model.

#include "tests/order/altered.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_bitmap_operations)

BOOST_AUTO_TEST_CASE(refusals)
{
    Altered image(with_bitmaps({named("b0"), named("torn", true, true)}));
    const auto run = [&](Result<void> (*operation)(Image &)) { return image.run(operation); };
    refused(run([](Image &i) { return add_bitmaps(i, {{.name = "b0"}}); }), Errc::exists,
            "bitmap 'b0' exists already");
    refused(run([](Image &i) { return add_bitmaps(i, {{.name = "torn"}}); }), Errc::exists,
            "exists already");
    refused(run([](Image &i) { return add_bitmaps(i, {{.name = ""}}); }), Errc::invalid,
            "1 to 1023 bytes, not 0");
    refused(run([](Image &i) { return add_bitmaps(i, {{.name = std::string(1024, 'a')}}); }),
            Errc::invalid, "not 1024");
    refused(run([](Image &i) { return add_bitmaps(i, {{.name = "\xff"}}); }), Errc::invalid,
            "UTF-8");
    refused(run([](Image &i) { return add_bitmaps(i, {{.name = std::string("a\0b", 3)}}); }),
            Errc::invalid, "UTF-8");
    refused(run([](Image &i) { return add_bitmaps(i, {{.name = "n", .granularity_bits = 8}}); }),
            Errc::invalid, "512 to 2G");
    refused(run([](Image &i) { return add_bitmaps(i, {{.name = "n", .granularity_bits = 32}}); }),
            Errc::invalid, "512 to 2G");
    refused(run([](Image &i) { return remove_bitmap(i, "n"); }), Errc::not_found,
            "there is no bitmap 'n'");
    refused(run([](Image &i) { return enable_bitmap(i, "torn"); }), Errc::busy, "is inconsistent");
    refused(run([](Image &i) { return disable_bitmap(i, "torn"); }), Errc::busy, "is inconsistent");
    refused(run([](Image &i) { return clear_bitmap(i, "torn"); }), Errc::busy, "is inconsistent");
    refused(run([](Image &i) { return merge_bitmap(i, "torn", "b0"); }), Errc::busy,
            "is inconsistent");
    refused(run([](Image &i) { return merge_bitmap(i, "b0", "torn"); }), Errc::busy,
            "is inconsistent");
    refused(run([](Image &i) { return merge_bitmap(i, "b0", "n"); }), Errc::not_found,
            "there is no bitmap 'n'");
    BOOST_TEST(image.bitmaps().size() == 2u);
    BOOST_TEST(image.checked().sound());
}

BOOST_AUTO_TEST_CASE(version_2_has_no_bitmaps)
{
    ImageSpec spec = order_spec();
    spec.version = 2;
    spec.clusters = {};
    Altered image(spec);
    refused(image.run([](Image &i) { return add_bitmaps(i, {{.name = "n"}}); }), Errc::unsupported,
            "version 2");
}

BOOST_AUTO_TEST_CASE(H1_enabling_is_one_write_of_the_flags_word)
{
    Order order(with_bitmaps({named("b0", false)}));
    must(order.disk().begin_writing());
    const std::size_t before = order.recording().operations.size();
    must(order.disk().restructure([](Image &i) { return enable_bitmap(i, "b0"); }));
    const Recording recording = order.recording();
    std::size_t writes = 0;
    for (std::size_t i = before; i < recording.operations.size(); ++i)
        if (recording.operations[i].writes()) {
            ++writes;
            BOOST_TEST(recording.operations[i].length == 4u);
        }
    BOOST_TEST(writes == 1u);
    // And from now on it sees changes.
    order.write(7, 1);
    must(order.disk().close());
    order.look(
        [](const ImageReader &reader) { BOOST_TEST(must(reader.bitmaps()).at(0).bits.test(7)); });
}

// With room for all of it, or for a part.
BOOST_AUTO_TEST_CASE(H1_steps_that_find_no_room_leave_no_cluster_behind)
{
    const ImageSpec spec = with_bitmaps({named("b0")});
    const std::uint64_t size = build_image(spec).image.size;
    unsigned refusals = 0;
    for (std::uint64_t room = 0; room < 12; ++room) {
        Order order(spec, {.can_grow = false, .size_limit = size + room * 4096});
        must(order.disk().begin_writing());
        const auto done = order.disk().change_together(
            {AddBitmap{{.name = "n", .all_dirty = true}}, ClearBitmap{"b0"}});
        BOOST_TEST((done || done.error().code == Errc::no_space));
        refusals += !done;
        must(order.disk().close());
        const StoreImage image = order.image();
        ImageView view(image);
        const CheckReport report = must(check(view));
        BOOST_TEST(report.sound(), report.text());
    }
    BOOST_TEST(refusals > 1u);
    BOOST_TEST(refusals < 12u);
}

BOOST_AUTO_TEST_CASE(H4_extension_and_autoclear_bit_come_and_go_together)
{
    Altered image(with_bitmaps({named("b0")}));
    must(image.run([](Image &i) { return remove_bitmap(i, "b0"); }));
    const auto area = [&] {
        const StoreImage now = image.memory().image();
        ImageView view(now);
        return must(ImageReader::open(view)).area();
    };
    BOOST_TEST(!area().find(ExtensionType::bitmaps));
    BOOST_TEST((area().header.autoclear_features & autoclear::bitmaps) == 0u);
    BOOST_TEST(image.checked().sound());
    must(image.run([](Image &i) { return add_bitmaps(i, {{.name = "b1"}}); }));
    BOOST_TEST(area().find(ExtensionType::bitmaps));
    BOOST_TEST((area().header.autoclear_features & autoclear::bitmaps) != 0u);
}

BOOST_AUTO_TEST_CASE(what_is_foreign_is_kept_and_neither_used_nor_changed)
{
    BitmapSpec extra = named("extra", false);
    extra.extra_data = {1, 2, 3, 4, 5};
    Altered image(with_bitmaps({extra, named("type", false), named("b0")}));
    image.in_entry(0, 15, {0});  // no flag that the data are compatible
    image.in_entry(1, 16, {77});
    const Buffer before = image.memory().image().bytes.copy(image.directory().value, 72);
    for (const std::string name : {"extra", "type"}) {
        for (const auto operation : {remove_bitmap, enable_bitmap, disable_bitmap, clear_bitmap})
            refused(image.run([&](Image &i) { return operation(i, name); }), Errc::unsupported,
                    "'" + name + "'");
        refused(image.run([&](Image &i) { return merge_bitmap(i, "b0", name); }), Errc::unsupported,
                "'" + name + "'");
    }
    must(image.run([](Image &i) { return add_bitmaps(i, {{.name = "b1"}}); }));
    must(image.run([](Image &i) { return remove_bitmap(i, "b0"); }));
    const StoreImage now = image.memory().image();
    ImageView view(now);
    const auto extension = must(ImageReader::open(view)).bitmaps_extension();
    BOOST_REQUIRE(extension);
    BOOST_TEST((now.bytes.copy(extension->bitmap_directory_offset.value, 72) == before));
}

BOOST_AUTO_TEST_CASE(extra_data_that_are_compatible_are_kept_and_the_bitmap_is_used)
{
    BitmapSpec extra = named("extra");
    extra.extra_data = {1, 2, 3, 4, 5};
    Altered image(with_bitmaps({extra}));
    must(image.run([](Image &i) { return clear_bitmap(i, "extra"); }));
    const auto bitmaps = image.bitmaps();
    BOOST_TEST((bitmaps.at(0).entry.extra_data == extra.extra_data));
    BOOST_TEST(
        (bitmaps[0].entry.flags == (bitmap_flags::auto_ | bitmap_flags::extra_data_compatible)));
    BOOST_TEST(bitmaps[0].bits.none());
}

BOOST_AUTO_TEST_CASE(names_of_any_bytes_are_carried_along)
{
    const std::string odd("\xff\0\n'\x01", 5);
    Altered image(with_bitmaps({named(odd), named("b0")}));
    must(image.run([](Image &i) { return remove_bitmap(i, "b0"); }));
    BOOST_TEST(image.bitmaps().at(0).entry.name == odd);
    must(image.run([&](Image &i) { return disable_bitmap(i, odd); }));
    BOOST_TEST(!image.bitmaps().at(0).entry.enabled());
}

BOOST_AUTO_TEST_CASE(there_are_at_most_65535)
{
    ImageSpec spec = order_spec();
    spec.cluster_bits = 9;
    spec.size = 4096;
    spec.clusters = {};
    for (unsigned i = 0; i < 65534; ++i)
        spec.bitmaps.push_back(
            {.name = std::to_string(i), .enabled = false, .set = {}, .extra_data = {}});
    Altered image(spec);
    must(image.run([](Image &i) { return add_bitmaps(i, {{.name = "the last"}}); }));
    refused(image.run([](Image &i) { return add_bitmaps(i, {{.name = "one more"}}); }),
            Errc::invalid, "65535");
    BOOST_TEST(image.bitmaps().size() == 65535u);
    // Over the open image, where those that stay are taken over, one by one.
    must(image.open().change_together({EnableBitmap{"1"}, ClearBitmap{"2"}, RemoveBitmap{"0"}}));
    const auto bitmaps = image.bitmaps();
    BOOST_TEST(bitmaps.size() == 65534u);
    BOOST_TEST(bitmaps[0].entry.enabled());
}

BOOST_AUTO_TEST_CASE(clusters_that_two_bitmaps_share_are_not_freed)
{
    Altered image(with_bitmaps({named("b0"), named("off", false)}));
    Buffer table(8);
    store_be64(table.data(), image.built().bitmaps[0].bitmap_table_offset.value);
    // The table of one is the data of the other.
    image.poke(image.built().bitmaps[1].bitmap_table_offset.value, table);
    must(image.run([](Image &i) { return remove_bitmap(i, "off"); }));
    const auto bitmaps = image.bitmaps();
    BOOST_REQUIRE(bitmaps.size() == 1u);
    BOOST_TEST(bitmaps[0].bits.test(3));
    BOOST_TEST(image.checked().leaks_at_worst());
}

BOOST_AUTO_TEST_CASE(what_cannot_be_tracked_is_not_enabled)
{
    Altered image(with_bitmaps({named("off", false), named("good", false)}));
    const HostOffset table = image.built().bitmaps[0].bitmap_table_offset;
    const StoreImage before = image.memory().image();
    const auto enable = [&] { return image.run([](Image &i) { return enable_bitmap(i, "off"); }); };
    image.in_entry(0, 11, {2});
    refused(enable(), Errc::corrupt, "bitmap 'off'");
    image.in_entry(0, 11, {1});
    image.poke(table.value,
               before.bytes.copy(image.built().bitmaps[1].bitmap_table_offset.value, 8));
    refused(enable(), Errc::corrupt, "bitmap 'off'");
    image.poke(table.value, Buffer(8, 0xff));
    refused(enable(), Errc::corrupt, "bitmap 'off'");
    image.poke(table.value, before.bytes.copy(table.value, 8));
    must(enable());
    BOOST_TEST(!image.open().why_read_only());
}

BOOST_AUTO_TEST_CASE(names_end_at_a_NUL_for_QEMU)
{
    Altered image(with_bitmaps({named(std::string("b0\0x", 4))}));
    refused(image.run([](Image &i) { return add_bitmaps(i, {{.name = "b0"}}); }), Errc::exists,
            "NUL");
    DiskOptions options;
    options.bitmaps = {"b0"};
    refused(Disk::open(image.memory(), options), Errc::exists, "NUL");
    must(image.run([](Image &i) { return add_bitmaps(i, {{.name = "b"}}); }));
}

// 32 GiB of memory for a table that cannot be.
BOOST_AUTO_TEST_CASE(a_table_of_too_many_entries_is_not_read)
{
    Altered image(with_bitmaps({named("torn", true, true)}));
    image.in_entry(0, 8, Buffer(4, 0xff));
    MemoryStore &memory = image.memory();
    must(memory.grow(std::uint64_t(64) << 30));
    const auto disk = must(Disk::open(memory, {}));
    must(disk->begin_writing());
    refused(disk->restructure([](Image &i) -> Result<void> {
        const auto directory = TRY(BitmapDirectory::load(i));
        return load_bitmap_table(i, directory.entries[0]).error();
    }),
            Errc::corrupt, "4294967295 entries");
}

// QEMU 7.2 keeps what it finds behind the last bit, and its check does not look.
BOOST_AUTO_TEST_CASE(ones_behind_the_last_bit_are_not_read_and_go_when_it_is_written)
{
    ImageSpec spec = with_bitmaps({named("b0"), named("off", false)});
    spec.size = 100 << 10;  // 25 granules
    Altered image(spec);
    const auto data_of = [&](std::size_t bitmap) {
        const std::uint64_t table = image.built().bitmaps[bitmap].bitmap_table_offset.value;
        return load_be64(image.memory().image().bytes.copy(table, 8).data());
    };
    Buffer ones(509, 0xff);
    ones[0] = 0xfe;
    for (const std::size_t bitmap : {0, 1})
        image.poke(data_of(bitmap) + 3, ones);
    {
        Disk &disk = image.open();
        for (const ReportLine &line : disk.report(true))
            BOOST_TEST(line.text.find("dirty: 2 granules, 8192 bytes") != std::string::npos,
                       line.text);
        must(disk.begin_writing());
        must(disk.write(GuestOffset(24 << 12), Buffer(512, 1), true));
        must(disk.close());
    }
    Buffer expected(4096);
    expected[0] = 0x18;
    expected[3] = 0x01;
    BOOST_TEST((image.memory().image().bytes.copy(data_of(0), 4096) == expected));
    // What is disabled stays as it is, and when it is read the ones are not there.
    BOOST_TEST(image.memory().image().bytes.copy(data_of(1) + 3, 1)[0] == 0xfe);
    must(image.run([](Image &i) { return merge_bitmap(i, "off", "b0"); }));
    const auto bitmaps = image.bitmaps();
    BOOST_TEST((bitmaps.at(1).bits == bitmaps[0].bits && bitmaps[0].bits.count() == 3u));
}

BOOST_AUTO_TEST_SUITE_END()
