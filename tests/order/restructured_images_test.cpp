// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Changes of the structure, of images that are unlike others: read-only, with bitmaps that
// cannot follow, with counts and bits that are wrong, with sizes of their own.

#include "tests/order/restructure.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_restructure)

BOOST_AUTO_TEST_CASE(a_read_only_disk_is_not_restructured)
{
    DiskOptions options;
    options.read_only = true;
    Order order(order_spec(), {}, options);
    const Result<void> done = order.disk().restructure(halve);
    BOOST_REQUIRE(!done);
    BOOST_TEST(static_cast<int>(done.error().code) == static_cast<int>(Errc::read_only));
    BOOST_TEST(order.recording().operations.empty());
}

// 512 MiB of bits, and nobody can use them anyhow.
BOOST_AUTO_TEST_CASE(an_inconsistent_bitmap_that_is_too_fine_does_not_keep_the_disk_from_growing)
{
    constexpr std::uint64_t size = std::uint64_t(3) << 40;
    ImageSpec spec;
    spec.size = 1 << 20;
    spec.bitmaps = {
        {.name = "torn", .granularity_bits = 9, .in_use = true, .set = {{1, 3}}, .extra_data = {}},
        {.name = "good", .granularity_bits = 16, .set = {{1, 3}}, .extra_data = {}}};
    MemoryStore memory(build_image(spec).image);
    const auto entries = [&] {
        const auto disk = must(Disk::open(memory, {}));
        std::vector<BitmapDirectoryEntry> found;
        must(disk->restructure([&](Image &image) -> Result<void> {
            found = TRY(BitmapDirectory::load(image)).entries;
            return {};
        }));
        return found;
    };
    const auto before = entries();
    {
        const auto disk = must(Disk::open(memory, {}));
        must(disk->check_resize(size));
        must(disk->resize(size));
        must(disk->close());
    }
    const auto after = entries();
    BOOST_TEST((after.at(0) == before.at(0)));
    BOOST_TEST(after.at(1).bitmap_table_size == size / 65536 / 8 / 65536);
    // A sound one does.
    spec.bitmaps[0].in_use = false;
    MemoryStore sound(build_image(spec).image);
    const auto disk = must(Disk::open(sound, {}));
    const auto done = disk->check_resize(size);
    BOOST_REQUIRE(!done);
    BOOST_TEST(done.error().what.find("bitmap 'torn': a bitmap of granularity 512") !=
                   std::string::npos,
               done.error().what);
}

// Nor is anything else written into such an image.
BOOST_AUTO_TEST_CASE(a_snapshot_whose_L1_table_is_the_disks_is_not_deleted)
{
    ImageSpec spec = order_spec();
    spec.snapshot = true;
    spec.clusters = {};  // without an L2 table that would tell
    const BuiltImage built = build_image(spec);
    MemoryStore memory(built.image);
    Buffer offset(8);
    store_be64(offset.data(), built.area.header.l1_table_offset.value);
    must(memory.write(built.area.header.snapshots_offset.value, offset));
    const auto disk = must(Disk::open(memory, {}));
    const StoreImage before = memory.image();
    const std::string name = must(disk->snapshots()).at(0).id;
    for (const auto &done : {disk->delete_snapshot(name), disk->revert(name)}) {
        BOOST_REQUIRE(!done);
        BOOST_TEST(done.error().what.find("two tables of the image share a cluster") !=
                       std::string::npos,
                   done.error().what);
    }
    BOOST_TEST((memory.image().bytes.copy(0, before.size) == before.bytes.copy(0, before.size)));
}

// An enabled one would be a lie.
BOOST_AUTO_TEST_CASE(a_bitmap_that_cannot_follow_the_disk_is_named)
{
    ImageSpec spec = order_spec();
    spec.bitmaps = {
        {.name = "off", .granularity_bits = 12, .enabled = false, .set = {}, .extra_data = {}}};
    const BuiltImage built = build_image(spec);
    MemoryStore memory(built.image);
    must(memory.write(built.bitmaps[0].bitmap_table_offset.value, Buffer(8, 0xff)));
    const auto disk = must(Disk::open(memory, {}));
    const auto done = disk->resize(16 << 20);
    BOOST_REQUIRE(!done);
    BOOST_TEST(
        done.error().what.starts_with("bitmap 'off' cannot follow the disk to another size: "),
        done.error().what);
}

// As QEMU's savevm leaves it: the L1 table of the snapshot goes on behind its disk.
BOOST_AUTO_TEST_CASE(VM_state_stays_with_its_snapshot)
{
    constexpr std::uint64_t small = 8 << 20, state_size = 2 << 20;  // 4 and 1 L1 entries
    ImageSpec spec = order_spec();
    MemoryStore memory(build_image(spec).image);
    const auto entry = [&] {
        const StoreImage now = memory.image();
        ImageView view(now);
        return must(load_snapshots(view, must(ImageReader::open(view)).area().header))
            .snapshots.at(0);
    };
    // The size of the disk in the extra data, and that of the VM state.
    const auto say = [&](std::uint64_t disk_size, std::uint64_t vm_state) {
        const StoreImage now = memory.image();
        ImageView view(now);
        const std::uint64_t place =
            must(ImageReader::open(view)).area().header.snapshots_offset.value + 40;
        Buffer words(16);
        store_be64(&words[0], vm_state);
        store_be64(&words[8], disk_size);
        must(memory.write(place, words));
    };
    const Buffer state(100000, 0x77);
    {
        const auto disk = must(Disk::open(memory, {}));
        must(disk->resize(small + state_size));
        must(disk->write(GuestOffset(0), Buffer(9000, 0x11), false));
        must(disk->write(GuestOffset(small), state, false));
        must(disk->create_snapshot({"vm", 1, 0}));
        must(disk->resize(small));
        must(disk->close());
    }
    say(small, state_size);
    const Snapshot before = entry();
    BOOST_REQUIRE((before.l1_size == 5u && before.disk_size == small));
    {
        const auto disk = must(Disk::open(memory, {}));
        must(disk->create_snapshot({"other", 2, 0}));
        must(disk->write(GuestOffset(0), Buffer(9000, 0x22), false));
        must(disk->revert("vm"));
        BOOST_TEST(disk->size() == small);
        BOOST_TEST(first_byte(*disk, 0) == 0x11);
        must(disk->create_snapshot({"third", 3, 0}));
        must(disk->delete_snapshot("other"));
        must(disk->delete_snapshot("third"));
        must(disk->close());
    }
    BOOST_TEST((entry().l1_size == before.l1_size && entry().extra_data == before.extra_data));
    BOOST_TEST(must(check(memory)).sound(), must(check(memory)).text());
    say(small + state_size, 0);
    {
        DiskOptions options;
        options.snapshot = "vm";
        const auto disk = must(Disk::open(memory, options));
        Buffer found(state.size());
        must(disk->read(GuestOffset(small), found));
        BOOST_TEST((found == state));
    }
    say(small, state_size);
    const auto disk = must(Disk::open(memory, {}));
    must(disk->delete_snapshot("vm"));
    must(disk->close());
    BOOST_TEST(must(check(memory)).sound(), must(check(memory)).text());
}

// What the header says is rounded down, and what a resize writes is whole.
BOOST_AUTO_TEST_CASE(sizes_in_the_header_that_are_no_multiple_of_512_are_resized)
{
    for (const std::uint64_t in_header : {1, 511, 513, 1023})
        for (const std::uint64_t wanted : {1, 512, 5000, 3 << 20}) {
            BOOST_TEST_INFO_SCOPE(in_header << " to " << wanted);
            ImageSpec spec;
            spec.cluster_bits = 9;
            spec.size = in_header;
            MemoryStore memory(build_image(spec).image);
            const auto disk = must(Disk::open(memory, {}));
            BOOST_TEST(disk->size() == in_header / 512 * 512);
            must(disk->resize(wanted));
            const std::uint64_t size = align_up(wanted, 512);
            BOOST_TEST(disk->size() == size);
            must(disk->write(GuestOffset(size - 512), Buffer(512, 7), true));
            must(disk->close());
            const StoreImage now = memory.image();
            ImageView view(now);
            const std::uint64_t written = must(ImageReader::open(view)).area().header.size;
            // A disk that has the size already is left as it is.
            BOOST_TEST((written == size || written == in_header), written);
            BOOST_TEST(must(check(view)).sound(), must(check(view)).text());
        }
}

// W6. As the power leaves it in the middle of a snapshot that is made in place: bits 63 are
// clear, the table's count was raised, those of what it names were not. Or where the disk has
// copied a table, whose count was not lowered, and comes back to it by applying the snapshot.
// The count tells of a name that is not there: snapshots change all the same, and afterwards
// no bit is wrong.
BOOST_AUTO_TEST_CASE(W6_a_count_that_is_too_high_keeps_no_snapshot)
{
    for (const bool made_first : {false, true}) {
        Patient patient(with_snapshot());
        count_table_twice(patient);
        clear_copied(patient, {patient.l2(0), patient.l2(1)});
        const CheckReport before = must(check(patient.store()));
        BOOST_TEST(harmless_in_place(before), before.text());
        BOOST_TEST(!before.leaks_at_worst());
        const auto disk = must(Disk::open(patient.store(), {}));
        const std::string there = must(disk->snapshots()).at(0).id;
        if (made_first)
            must(disk->create_snapshot({"made", 1, 0}));
        must(disk->delete_snapshot(there));
        must(disk->write(GuestOffset(0), Buffer(cluster, 0x33), false));
        must(disk->close());
        const CheckReport report = must(check(patient.store()));
        BOOST_TEST(report.leaks_at_worst(), report.text());
        BOOST_TEST(report.leaks == before.leaks);
    }
}

BOOST_AUTO_TEST_CASE(W6_nor_one_that_is_to_be_made)
{
    Patient patient(with_snapshot());
    count_table_twice(patient);
    const auto disk = must(Disk::open(patient.store(), {}));
    must(disk->create_snapshot({"made", 1, 0}));
    must(disk->close());
    const CheckReport report = must(check(patient.store()));
    BOOST_TEST(report.leaks_at_worst(), report.text());
    BOOST_TEST(report.leaks == 1u);
}

// As above, but the snapshot names the table, or cannot be followed and may name it: a bit that
// would have to go is refused, whatever the count says.
BOOST_AUTO_TEST_CASE(W6_a_bit_of_a_table_that_a_snapshot_names_is_not_cleared)
{
    enum class Snapshots { followed, damaged, not_aligned };
    for (const auto snapshots : {Snapshots::followed, Snapshots::damaged, Snapshots::not_aligned}) {
        BOOST_TEST_INFO_SCOPE("snapshots " << static_cast<int>(snapshots));
        Patient patient(with_snapshot());
        const std::uint64_t table = patient.word(patient.l1(0)) & entry_offset_mask;
        const std::uint64_t record = patient.snapshots();
        const std::uint64_t l1 = patient.word(record);
        if (snapshots != Snapshots::followed)
            count_table_twice(patient);
        if (snapshots == Snapshots::not_aligned)
            patient.put(record, l1 + 8);
        else
            patient.put(l1, snapshots == Snapshots::followed ? table : entry_copied | 1);
        const auto disk = must(Disk::open(patient.store(), {}));
        must(disk->begin_writing());
        const StoreImage before = patient.store().image();
        const Result<void> made = disk->create_snapshot({"made", 1, 0});
        BOOST_REQUIRE(!made);
        BOOST_TEST(made.error().what.find("the table is shared") != std::string::npos,
                   made.error().what);
        BOOST_TEST(must(disk->snapshots()).size() == 1u);
        BOOST_TEST((patient.store().image().bytes == before.bytes));
    }
}

// And where a bit could be set it stays clear: the snapshot that stays names the table.
BOOST_AUTO_TEST_CASE(W6_a_bit_of_a_table_that_a_snapshot_names_is_not_set)
{
    ImageSpec spec = order_spec();
    spec.clusters = {{0, Preset::data}};
    MemoryStore memory(build_image(spec).image);
    {
        const auto disk = must(Disk::open(memory, {}));
        must(disk->create_snapshot({"kept", 1, 0}));
        must(disk->create_snapshot({"gone", 2, 0}));
        must(disk->close());
    }
    Patient patient(memory.image());
    const std::uint64_t table = patient.word(patient.l1(0)) & entry_offset_mask;
    patient.set_refcount(table, 4);            // too high by one
    patient.set_refcount(patient.host(0), 2);  // too low by one
    {
        const auto disk = must(Disk::open(patient.store(), {}));
        must(disk->delete_snapshot("gone"));
        must(disk->close());
    }
    Patient after(patient.store().image());
    BOOST_TEST((after.word(after.l1(0)) & entry_offset_mask) == table);
    BOOST_TEST((after.word(after.l2(0)) & entry_copied) == 0u);
}

BOOST_AUTO_TEST_SUITE_END()
