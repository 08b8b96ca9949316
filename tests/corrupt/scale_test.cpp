// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images that say of themselves that they are large: tables that are holes, and
// tables that many name. What is done with them may cost, in bytes read and in
// memory, what is stored in them, times a constant. (Time is not measured: where it
// grows with something else, a test does not end.)

#include <boost/test/unit_test.hpp>

#include <cstddef>

#include "core/check/check.h"
#include "core/check/repair.h"
#include "core/disk.h"
#include "core/format/snapshot_table.h"
#include "core/format/table_entry.h"
#include "tests/support/counting_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/scarce_memory.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(scale)

namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t far = std::uint64_t(1) << 40;  // where the long tables begin

ImageSpec spec_of(std::uint32_t cluster_bits, std::uint64_t size)
{
    ImageSpec spec;
    spec.cluster_bits = cluster_bits;
    spec.size = size;
    return spec;
}

// A sound image, and what is written over it.
class Made {
public:
    explicit Made(std::uint32_t cluster_bits, std::uint64_t size = 1 << 20,
                  std::uint64_t file_size = far * 2)
        : built_(build_image(spec_of(cluster_bits, 1 << 20)))
    {
        put(offsetof(on_disk::Header, size), size);
        built_.area.header.size = size;
        built_.image.size = file_size;
    }

    void put(std::uint64_t offset, std::uint64_t word)
    {
        std::uint8_t bytes[8];
        store_be64(bytes, word);
        built_.image.bytes.write(offset, bytes);
    }
    void put_32(std::uint64_t offset, std::uint32_t word)
    {
        const on_disk::be32 big(word);
        built_.image.bytes.write(offset, {big.data(), sizeof big});
    }
    void set_l1(std::uint64_t offset, std::uint32_t entries)
    {
        put(offsetof(on_disk::Header, l1_table_offset), offset);
        put_32(offsetof(on_disk::Header, l1_size), entries);
    }
    void set_snapshots(const std::vector<Snapshot> &snapshots)
    {
        constexpr std::uint64_t at = far / 4;
        built_.image.bytes.write(at, encode_snapshot_table(snapshots));
        put(offsetof(on_disk::Header, snapshots_offset), at);
        put_32(offsetof(on_disk::Header, nb_snapshots),
               static_cast<std::uint32_t>(snapshots.size()));
    }
    void set_bitmaps(std::vector<BitmapDirectoryEntry> entries)
    {
        constexpr std::uint64_t at = far / 2;
        const Buffer directory = encode_bitmap_directory(entries);
        built_.image.bytes.write(at, directory);
        BitmapsExtension extension;
        extension.nb_bitmaps = static_cast<std::uint32_t>(entries.size());
        extension.bitmap_directory_size = directory.size();
        extension.bitmap_directory_offset = HostOffset(at);
        HeaderArea area = built_.area;
        area.extensions = with_bitmaps_extension(area.extensions, extension);
        area.header.autoclear_features |= autoclear::bitmaps;
        const std::uint64_t cluster_size = area.header.geometry().cluster_size();
        built_.image.bytes.write(
            0, must(encode_header_area(area, built_.image.bytes.copy(0, cluster_size))));
    }

    std::uint64_t stored_bytes() const
    {
        std::uint64_t bytes = 0;
        built_.image.bytes.for_each_page([&](std::uint64_t, Bytes page) { bytes += page.size(); });
        return bytes;
    }
    const StoreImage &image() const { return built_.image; }

private:
    BuiltImage built_;
};

Snapshot snapshot_with(std::size_t number, std::uint64_t l1, std::uint32_t entries)
{
    Snapshot snapshot;
    snapshot.l1_table_offset = HostOffset(l1);
    snapshot.l1_size = entries;
    snapshot.id = std::to_string(number);
    snapshot.disk_size = 1 << 20;
    snapshot.extra_data.resize(16);
    store_be64(&snapshot.extra_data[8], snapshot.disk_size);
    return snapshot;
}

BitmapDirectoryEntry bitmap_with(std::size_t number, std::uint64_t table, std::uint32_t entries,
                                 std::uint32_t flags = 0)
{
    BitmapDirectoryEntry entry;
    entry.bitmap_table_offset = HostOffset(table);
    entry.bitmap_table_size = entries;
    entry.flags = flags;
    entry.granularity_bits = 9;
    entry.name = "b" + std::to_string(number);
    return entry;
}

// What something costs: bytes read, and the most memory at a time.
struct Cost {
    std::uint64_t bytes_read;
    std::uint64_t memory;
};

template <class Action>
Cost cost_of(CountingStore &store, Action action)
{
    store.forget();
    const std::int64_t before = memory_taken;
    memory_taken_most = before;
    action();
    return {store.bytes_read, static_cast<std::uint64_t>(memory_taken_most - before)};
}

struct Bounds {
    std::uint64_t bytes_read;
    std::uint64_t memory;
};

void is_within(const Cost &cost, const Bounds &bounds)
{
    BOOST_TEST(cost.bytes_read <= bounds.bytes_read);
    BOOST_TEST(cost.memory <= bounds.memory);
}

Cost cost_of_check(const Made &made)
{
    CountingStore store(made.image());
    return cost_of(store, [&] { must(check(store)); });
}

Cost cost_of_opening(const Made &made)
{
    CountingStore store(made.image());
    return cost_of(store, [&] { must(must(Disk::open(store, {}))->close()); });
}

}  // namespace

// The cluster of the header and that of the refcount table were read whole, and kept.
BOOST_AUTO_TEST_CASE(clusters_of_2_MiB)
{
    const Made made(21, mib, 1024 * mib);
    is_within(cost_of_check(made), {mib / 2, mib});
    is_within(cost_of_opening(made), {mib / 2, mib});
}

BOOST_AUTO_TEST_CASE(a_refcount_table_that_is_a_hole)
{
    Made made(16);
    made.put(offsetof(on_disk::Header, refcount_table_offset), far);
    made.put_32(offsetof(on_disk::Header, refcount_table_clusters), 128);
    is_within(cost_of_opening(made), {mib, mib});
}

// Each took 2 KiB: a page of counters.
BOOST_AUTO_TEST_CASE(clusters_that_stand_alone)
{
    constexpr std::uint64_t l2_entries = 8192, tables = 16;
    Made made(16, tables * l2_entries << 16, far * 16);
    made.set_l1(far, tables);
    for (std::uint64_t i = 0; i < tables; ++i) {
        const std::uint64_t table = far + (i + 1) * 65536;
        made.put(far + i * 8, entry_copied | table);
        for (std::uint64_t k = 0; k < l2_entries; ++k)
            made.put(table + k * 8, entry_copied | (far + (i * l2_entries + k + 1) * 64 * mib));
    }
    is_within(cost_of_check(made), {2 * made.stored_bytes(), 24 * made.stored_bytes()});
}

// And so did each L2 table.
BOOST_AUTO_TEST_CASE(l2_tables_that_are_holes)
{
    constexpr std::uint64_t tables = 16384;
    Made made(16, tables * 8192 << 16, far * 8);
    made.set_l1(far, tables);
    for (std::uint64_t i = 0; i < tables; ++i)
        made.put(far + i * 8, entry_copied | (far + (i + 1) * 128 * mib));
    is_within(cost_of_check(made), {2 * mib, 40 * made.stored_bytes()});
    is_within(cost_of_opening(made), {2 * mib, 600 * made.stored_bytes()});
}

BOOST_AUTO_TEST_CASE(an_l1_table_that_is_a_hole)
{
    Made made(16);
    made.set_l1(far, 4 << 20);
    is_within(cost_of_check(made), {mib, mib});
    is_within(cost_of_opening(made), {mib, mib});
}

BOOST_AUTO_TEST_CASE(snapshots_whose_l1_tables_are_holes)
{
    Made made(16);
    std::vector<Snapshot> snapshots;
    for (std::uint64_t i = 0; i < 128; ++i)
        snapshots.push_back(snapshot_with(i, far + i * 32 * mib, 4 << 20));
    made.set_snapshots(snapshots);
    is_within(cost_of_check(made), {mib, 2 * mib});
    is_within(cost_of_opening(made), {mib, 2 * mib});
}

// It was read once for each of them: with 65,536, for hours.
BOOST_AUTO_TEST_CASE(snapshots_that_name_one_l1_table)
{
    Made made(16);
    constexpr std::uint32_t entries = 32768;
    std::vector<Snapshot> snapshots;
    for (std::uint64_t i = 0; i < 1000; ++i)
        snapshots.push_back(snapshot_with(i, far + i % 3 * 65536, entries));
    made.set_snapshots(snapshots);
    for (std::uint64_t i = 0; i < entries; ++i)
        made.put(far + i * 8, far + 64 * mib);
    is_within(cost_of_check(made), {3 * made.stored_bytes(), 8 * made.stored_bytes()});
    is_within(cost_of_opening(made), {3 * made.stored_bytes(), 8 * made.stored_bytes()});
}

BOOST_AUTO_TEST_CASE(bitmaps_that_name_one_table)
{
    Made made(9, std::uint64_t(128) << 30);
    constexpr std::uint32_t entries = 65536;
    std::vector<BitmapDirectoryEntry> bitmaps;
    for (std::uint64_t i = 0; i < 1000; ++i)
        bitmaps.push_back(bitmap_with(i, far + i % 3 * 512, entries));
    made.set_bitmaps(bitmaps);
    for (std::uint64_t i = 0; i < entries; ++i)
        made.put(far + i * 8, far + 64 * mib + i * 512);
    is_within(cost_of_check(made), {3 * made.stored_bytes(), 16 * made.stored_bytes()});
    is_within(cost_of_opening(made), {3 * made.stored_bytes(), 64 * made.stored_bytes()});
}

// All that can be asked of a disk with many bitmaps: how dirty they are, that one goes,
// that they become valid again.
BOOST_AUTO_TEST_CASE(bitmaps_that_name_one_table_are_reported_and_changed)
{
    constexpr std::uint32_t entries = 4096;
    for (const std::uint32_t flags : {std::uint32_t(0), bitmap_flags::in_use}) {
        Made made(9, std::uint64_t(8) << 30, far + 65 * mib);
        std::vector<BitmapDirectoryEntry> bitmaps;
        for (std::uint64_t i = 0; i < 1000; ++i)
            bitmaps.push_back(bitmap_with(i, far + i % 3 * 512, entries, flags));
        made.set_bitmaps(bitmaps);
        for (std::uint64_t i = 0; i < entries; ++i)
            made.put(far + i * 8, far + 64 * mib + i * 8 / 512 * 512);  // each 64 times
        CountingStore store(made.image());
        DiskOptions options;
        options.bitmap_sync = BitmapSync::durable;
        auto disk = must(Disk::open(store, options));
        const Bounds bounds{5 * mib, 8 * mib};  // there is an L1 table of 2 MiB, too
        is_within(cost_of(store, [&] { disk->report(true); }), bounds);
        is_within(cost_of(store, [&] { must(disk->bitmap_states()); }), bounds);
        must(disk->begin_writing());
        is_within(
            cost_of(store, [&] { must(disk->change_together({BitmapStep(RemoveBitmap{"b7"})})); }),
            bounds);
    }
}

// Each had 16 bytes for each entry of its table, and two strings were made of it.
BOOST_AUTO_TEST_CASE(bitmaps_whose_tables_are_holes)
{
    Made made(9, std::uint64_t(128) << 30);
    constexpr std::uint32_t entries = 65536;
    std::vector<BitmapDirectoryEntry> bitmaps;
    for (std::uint64_t i = 0; i < 40; ++i)
        bitmaps.push_back(bitmap_with(i, far + i * 8 * mib, entries, bitmap_flags::auto_));
    made.set_bitmaps(bitmaps);
    is_within(cost_of_check(made), {mib, mib});
    is_within(cost_of_opening(made), {mib, 4 * mib});
}

// For each 4 KiB of bits there were 8 bytes, from the beginning: a MiB for each bitmap.
BOOST_AUTO_TEST_CASE(bitmaps_of_a_disk_that_is_large_for_them)
{
    Made made(16, std::uint64_t(2) << 40, far * 2);
    made.set_l1(far + 4096 * mib, 4096);
    constexpr std::uint32_t entries = 8192;
    std::vector<BitmapDirectoryEntry> bitmaps;
    for (std::uint64_t i = 0; i < 1000; ++i)
        bitmaps.push_back(bitmap_with(i, far + i * mib, entries, bitmap_flags::auto_));
    made.set_bitmaps(bitmaps);
    is_within(cost_of_opening(made), {mib, 8 * mib});
    CountingStore store(made.image());
    const auto disk = must(Disk::open(store, {}));
    BOOST_REQUIRE(!disk->why_read_only());
    must(disk->begin_writing());
    must(disk->write(GuestOffset(0), Buffer(512, 1), false));
    // A cluster of each is stored by now.
    is_within(cost_of(store, [&] { must(disk->bitmap_states()); }), {mib + 1000 * 65536, 8 * mib});
    must(disk->close());
}

BOOST_AUTO_TEST_SUITE_END()
