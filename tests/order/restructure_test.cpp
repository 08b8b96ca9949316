// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What holds for every change of the structure, whatever it changes: the
// operation finds a settled file, a failed one leaves all as it was, and what
// comes after goes by what the file says.

#include "core/bitmap/directory.h"
#include "core/check/check.h"
#include "core/structure/aside.h"
#include "tests/order/order.h"
#include "tests/support/patient.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_restructure)

namespace {

constexpr std::uint64_t cluster = 4096;

ImageSpec with_bitmap()
{
    ImageSpec spec = order_spec();
    spec.bitmaps = {{.name = "b0", .granularity_bits = 12, .set = {}, .extra_data = {}}};
    return spec;
}

ImageSpec with_snapshot()
{
    ImageSpec spec = order_spec();
    spec.snapshot = true;
    spec.clusters = {{0, Preset::data}, {1, Preset::data}, {7, Preset::shared_data}, {8, Preset::snapshot_data}};
    return spec;
}

void clear_copied(Patient &patient, std::initializer_list<std::uint64_t> entries)
{
    for (const std::uint64_t entry : entries)
        patient.put(entry, patient.word(entry) & ~entry_copied);
}

void count_table_twice(Patient &patient)
{
    patient.set_refcount(patient.word(patient.l1(0)) & entry_offset_mask, 2);
    clear_copied(patient, {patient.l1(0)});
}

// Takes effect: the disk has half its size.
Result<void> halve(Image &image)
{
    Aside aside(image);
    return aside.commit([](HeaderArea &area) { area.header.size /= 2; });
}

Result<void> nothing(Image &) { return {}; }

std::uint64_t clusters_in_use(const Order &order)
{
    return order.look([&](const ImageReader &reader) {
        std::uint64_t used = 0;
        for (std::uint64_t i = 0; i < 10000; ++i)
            used += must(reader.refcount(HostCluster(i))) != 0;
        return used;
    });
}

std::uint8_t first_byte(Disk &disk, std::uint64_t offset)
{
    Buffer bytes(1);
    must(disk.read(GuestOffset(offset), bytes));
    return bytes[0];
}

}  // namespace

BOOST_AUTO_TEST_CASE(H1_the_operation_finds_a_settled_file)
{
    Order order(with_bitmap());
    must(order.disk().begin_writing());
    order.write(5, 7);  // in a new cluster
    bool found = false;
    must(order.disk().restructure([&](Image &) -> Result<void> {
        order.look([&](const ImageReader &reader) {
            const auto bitmaps = must(reader.bitmaps());
            found = !bitmaps.at(0).entry.in_use() && bitmaps.at(0).bits.test(5) &&
                    !bitmaps.at(0).bits.test(4) && must(reader.l2_entry(GuestCluster(5))) != 0;
        });
        return {};
    }));
    BOOST_TEST(found);
    BOOST_TEST(order.disk().settled());
}

BOOST_AUTO_TEST_CASE(H1_what_is_prepared_is_durable_before_the_header_names_it)
{
    Order order(order_spec());
    HostOffset prepared;
    must(order.disk().restructure([&](Image &image) -> Result<void> {
        Aside aside(image);
        prepared = TRY(aside.write(Buffer(cluster + 1, 0xab)));
        return aside.commit([](HeaderArea &area) { area.header.size /= 2; });
    }));
    const Recording recording = order.recording();
    const std::size_t commit = find_word(recording, 0, HostOffset(24), 8,
                                         [](std::uint64_t size) { return size == 4 << 20; });
    BOOST_REQUIRE(commit < recording.operations.size());
    const std::uint64_t event = recording.operations[commit].begun;
    BOOST_TEST(durably_written(recording, Range::of(prepared.value, 2 * cluster), event));
    BOOST_TEST(durably_written(recording, Range::of(order.refcount_place(prepared).value, 4), event));
}

BOOST_AUTO_TEST_CASE(W3_what_is_replaced_falls_after_the_commit)
{
    Order order(order_spec());
    HostOffset old;
    must(order.disk().restructure([&](Image &image) -> Result<void> {
        Aside aside(image);
        old = TRY(aside.write(Buffer(cluster, 1)));
        return aside.commit([](HeaderArea &area) { area.header.size -= 512; });
    }));
    must(order.disk().restructure([&](Image &image) -> Result<void> {
        Aside aside(image);
        aside.replace({image.geometry().cluster_of(old), 1});
        return aside.commit([](HeaderArea &area) { area.header.size /= 2; });
    }));
    const Recording recording = order.recording();
    const std::size_t commit = find_word(recording, 0, HostOffset(24), 8,
                                         [](std::uint64_t size) { return size < 5 << 20; });
    const std::size_t falls = find_word(recording, commit, order.refcount_place(old), 2,
                                        [](std::uint64_t count) { return count == 0; });
    BOOST_REQUIRE(falls < recording.operations.size());
    BOOST_TEST(recording.is_durable(recording.operations[commit], recording.operations[falls].begun));
}

BOOST_AUTO_TEST_CASE(a_failed_operation_changes_nothing_and_the_disk_serves_on)
{
    Order order(with_bitmap());
    must(order.disk().begin_writing());
    const std::uint64_t before = clusters_in_use(order);
    const Result<void> done = order.disk().restructure([](Image &image) -> Result<void> {
        Aside aside(image);
        TRY(aside.write(Buffer(5 * cluster, 1)));
        return Error(Errc::busy, "not today");
    });
    BOOST_REQUIRE(!done);
    BOOST_TEST(done.error().what == "not today");
    BOOST_TEST(clusters_in_use(order) == before);
    BOOST_TEST(order.disk().size() == 8u << 20);
    order.write(5, 7);
    must(order.disk().close());
}

BOOST_AUTO_TEST_CASE(afterwards_the_disk_is_what_the_file_says)
{
    Order order(with_bitmap());
    order.write(0, 7);
    must(order.disk().restructure([](Image &image) {
        Aside aside(image);
        return aside.commit([](HeaderArea &area) {
            area.header.size /= 2;
            area.header.incompatible_features |= incompatible::corrupt;
        });
    }));
    BOOST_TEST(order.disk().size() == 4u << 20);
    BOOST_REQUIRE(order.disk().why_read_only());
    BOOST_TEST(!order.disk().write(GuestOffset(0), Buffer(512, 1), false));
    must(order.disk().close());
    BOOST_TEST(first_byte(order.disk(), 0) == payload(GuestOffset(0), 1, 7)[0]);
}

BOOST_AUTO_TEST_CASE(requests_behind_a_new_end_are_refused)
{
    Order order(order_spec());
    must(order.disk().restructure(halve));
    const GuestOffset behind(4 << 20);
    Buffer bytes(512);
    const auto refused = [](const auto &result) {
        return !result && result.error().code == Errc::invalid &&
               result.error().what == "the request ends at 0x400200, the disk at 0x400000";
    };
    Disk &disk = order.disk();
    BOOST_TEST(refused(disk.read(behind, bytes)));
    BOOST_TEST(refused(disk.write(behind, bytes, false)));
    BOOST_TEST(refused(disk.zero(behind, 512, {})));
    BOOST_TEST(refused(disk.zero(behind, 512, {.fast = true})));
    BOOST_TEST(refused(disk.trim(behind, 512, false)));
    BOOST_TEST(refused(disk.cache(behind, 512)));
    BOOST_TEST(refused(disk.block_status(behind, 512)));
    must(disk.write(GuestOffset(0), bytes, false));
}

// A cluster that was used and given back lies in space of this process, and is
// fresh no more: not for the image that is opened anew either.
BOOST_AUTO_TEST_CASE(W2_what_was_used_is_not_fresh_afterwards)
{
    Order order(order_spec(), {.growth_step = 1 << 20, .discarded = Discarded::kept});
    must(order.disk().begin_writing());
    for (std::uint64_t c = 100; c < 300; ++c)
        order.write(c, 7);
    must(order.disk().flush());
    for (std::uint64_t c = 100; c < 300; ++c)
        order.trim(c);
    must(order.disk().flush());
    must(order.disk().restructure(nothing));
    for (std::uint64_t c = 400; c < 600; ++c)
        must(order.disk().write(GuestOffset(c * cluster), Buffer(512, 9), false));
    for (std::uint64_t c = 400; c < 600; ++c) {
        Buffer bytes(cluster);
        must(order.disk().read(GuestOffset(c * cluster), bytes));
        BOOST_REQUIRE(all_zero(sub(Bytes(bytes), 512, cluster - 512)));
    }
}

BOOST_AUTO_TEST_CASE(W5_a_disk_that_breaks_after_a_failed_flush_says_so)
{
    Order order(order_spec());
    const Result<void> done = order.disk().restructure([&](Image &image) -> Result<void> {
        order.plan().arm({.kinds = Fault::flushes});
        BOOST_TEST(!image.store().flush());
        order.plan().arm({.kinds = Fault::reads, .forever = true});
        return {};
    });
    order.plan().disarm();
    BOOST_TEST(!done);
    BOOST_TEST(order.disk().failed().has_value());
    BOOST_TEST(order.disk().failed_after_flush());
}

BOOST_AUTO_TEST_CASE(a_disk_that_cannot_be_opened_anew_tells_it_to_every_request)
{
    Order order(order_spec());
    const Result<void> done = order.disk().restructure([&](Image &) -> Result<void> {
        order.plan().arm({.kinds = Fault::reads, .forever = true});
        return {};
    });
    order.plan().disarm();
    const std::string told = "the image could not be opened anew: header";
    const auto tells = [&](const auto &result) {
        return !result && result.error().what.starts_with(told);
    };
    BOOST_TEST(tells(done));
    Disk &disk = order.disk();
    Buffer bytes(512);
    BOOST_TEST(tells(disk.read(GuestOffset(0), bytes)));
    BOOST_TEST(tells(disk.write(GuestOffset(0), bytes, false)));
    BOOST_TEST(tells(disk.flush()));
    BOOST_TEST(tells(disk.settle()));
    BOOST_TEST(tells(disk.restructure(nothing)));
    BOOST_REQUIRE(disk.why_read_only());
    BOOST_TEST(disk.why_read_only()->what.starts_with(told));
    BOOST_REQUIRE(disk.failed());
    BOOST_TEST(disk.failed()->what.starts_with(told));
    BOOST_TEST(!disk.failed_after_flush());
    BOOST_TEST(disk.size() == 0u);
    must(disk.close());
}

// The commit fails and the old header cannot be put back: either may be there.
BOOST_AUTO_TEST_CASE(W5_with_a_header_in_doubt_nothing_is_written)
{
    Order order(with_bitmap());
    must(order.disk().begin_writing());
    order.write(0, 7);
    const Result<void> done = order.disk().restructure([&](Image &image) -> Result<void> {
        order.plan().arm({.kinds = Fault::writes, .forever = true, .lands = true});
        return halve(image);
    });
    order.plan().disarm();
    BOOST_REQUIRE(!done);
    const Result<void> written = order.disk().write(GuestOffset(0), Buffer(512, 1), false);
    BOOST_REQUIRE(!written);
    BOOST_TEST(written.error().what.find("nothing is written any more: the old header could not be put back") !=
               std::string::npos);
    BOOST_TEST(!order.disk().restructure(nothing));
    BOOST_TEST(order.disk().size() == 8u << 20);
    BOOST_TEST(first_byte(order.disk(), 0) == payload(GuestOffset(0), 1, 7)[0]);
}

BOOST_AUTO_TEST_CASE(W5_a_failed_flush_is_not_forgotten)
{
    Order order(order_spec());
    must(order.disk().restructure([&](Image &image) -> Result<void> {
        TRY(halve(image));
        order.plan().arm({.kinds = Fault::flushes});
        return {};
    }));
    BOOST_TEST(order.disk().size() == 4u << 20);
    const Result<void> written = order.disk().write(GuestOffset(0), Buffer(512, 1), false);
    BOOST_REQUIRE(!written);
    BOOST_TEST(written.error().what.find("nothing is written any more: a flush failed") !=
               std::string::npos);
    first_byte(order.disk(), 0);
}

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
    spec.bitmaps = {{.name = "torn", .granularity_bits = 9, .in_use = true, .set = {{1, 3}}, .extra_data = {}},
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
    BOOST_TEST(done.error().what.find("bitmap 'torn': a bitmap of granularity 512") != std::string::npos,
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
        BOOST_TEST(done.error().what.find("two tables of the image share a cluster") != std::string::npos,
                   done.error().what);
    }
    BOOST_TEST((memory.image().bytes.copy(0, before.size) == before.bytes.copy(0, before.size)));
}

// An enabled one would be a lie.
BOOST_AUTO_TEST_CASE(a_bitmap_that_cannot_follow_the_disk_is_named)
{
    ImageSpec spec = order_spec();
    spec.bitmaps = {{.name = "off", .granularity_bits = 12, .enabled = false, .set = {}, .extra_data = {}}};
    const BuiltImage built = build_image(spec);
    MemoryStore memory(built.image);
    must(memory.write(built.bitmaps[0].bitmap_table_offset.value, Buffer(8, 0xff)));
    const auto disk = must(Disk::open(memory, {}));
    const auto done = disk->resize(16 << 20);
    BOOST_REQUIRE(!done);
    BOOST_TEST(done.error().what.starts_with("bitmap 'off' cannot follow the disk to another size: "),
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
        return must(load_snapshots(view, must(ImageReader::open(view)).area().header)).snapshots.at(0);
    };
    // The size of the disk in the extra data, and that of the VM state.
    const auto say = [&](std::uint64_t disk_size, std::uint64_t vm_state) {
        const StoreImage now = memory.image();
        ImageView view(now);
        const std::uint64_t place = must(ImageReader::open(view)).area().header.snapshots_offset.value + 40;
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
// clear, the table's count was raised, those of what it names were not. The count tells of a
// name that is not there: snapshots change all the same, and the bits stay clear.
BOOST_AUTO_TEST_CASE(W6_a_count_that_is_too_high_keeps_no_snapshot)
{
    const auto harmless = [](Patient &patient) {
        const CheckReport report = must(check(patient.store()));
        BOOST_TEST(harmless_in_place(report), report.text());
    };
    for (const bool made_first : {false, true}) {
        Patient patient(with_snapshot());
        count_table_twice(patient);
        clear_copied(patient, {patient.l2(0), patient.l2(1)});
        harmless(patient);
        const auto disk = must(Disk::open(patient.store(), {}));
        const std::string there = must(disk->snapshots()).at(0).id;
        if (made_first)
            must(disk->create_snapshot({"made", 1, 0}));
        must(disk->delete_snapshot(there));
        must(disk->write(GuestOffset(0), Buffer(cluster, 0x33), false));
        must(disk->close());
        harmless(patient);
    }
}

// But no crash leaves a bit 63 under such a table that would have to go: who else names it would
// be written over.
BOOST_AUTO_TEST_CASE(W6_a_shared_table_with_a_bit_that_must_go_is_refused)
{
    Patient patient(with_snapshot());
    count_table_twice(patient);
    clear_copied(patient, {patient.l2(0)});
    const auto disk = must(Disk::open(patient.store(), {}));
    must(disk->begin_writing());
    const StoreImage before = patient.store().image();
    const Result<void> made = disk->create_snapshot({"made", 1, 0});
    BOOST_REQUIRE(!made);
    BOOST_TEST(made.error().what.find("the table is shared") != std::string::npos, made.error().what);
    BOOST_TEST(must(disk->snapshots()).size() == 1u);
    BOOST_TEST((patient.store().image().bytes == before.bytes));
}

BOOST_AUTO_TEST_SUITE_END()
