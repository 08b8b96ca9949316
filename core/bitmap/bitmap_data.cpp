// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/bitmap_data.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"
#include "core/image/snapshots.h"

namespace qcow2 {

namespace {

BitmapSize size_of(Image &image, const BitmapDirectoryEntry &entry)
{
    return BitmapSize::of(image.disk_size(), entry.granularity_bits, image.geometry());
}

// Calls function(entry index, bytes) for the data of each table entry.
template <class Function>
Result<void> for_each_piece(Image &image, const BitmapDirectoryEntry &entry, Function function)
{
    const Geometry &geometry = image.geometry();
    const BitmapSize size = size_of(image, entry);
    const auto table = TRY(load_bitmap_table(image, entry));
    if (table.size() != size.table_entries)
        return finding(Finding::bitmap_table_size_wrong);
    Buffer piece;
    for (std::uint64_t i = 0; i < table.size(); ++i) {
        const std::uint64_t begin = i << geometry.cluster_bits;
        piece.assign(std::min(geometry.cluster_size(), size.data_bytes - begin), table[i].all_ones ? 0xff : 0);
        if (table[i].has_cluster())
            TRY(image.store().read(table[i].data.value, piece).in("bitmap data at " + hex(table[i].data.value)));
        function(i, MutableBytes(piece));
    }
    return {};
}

// Clusters for so many pieces of data, side by side if there is such room.
Result<std::vector<HostCluster>> take_clusters(Aside &aside, std::uint64_t count)
{
    std::vector<HostCluster> clusters;
    if (count == 0)
        return clusters;
    const auto run = aside.take(count);
    if (!run && run.error().code != Errc::no_space)
        return run.error();
    for (std::uint64_t i = 0; i < count; ++i)
        clusters.push_back(run ? run->first + i : TRY(aside.take(1)).first);
    return clusters;
}

Result<void> write_table(Aside &aside, const std::vector<BitmapTableEntry> &table, BitmapDirectoryEntry &entry)
{
    Buffer bytes(table.size() * 8);
    for (std::size_t i = 0; i < table.size(); ++i)
        store_be64(&bytes[i * 8], table[i].raw());
    entry.bitmap_table_offset = TRY(aside.write(std::move(bytes)).in("bitmap table"));
    entry.bitmap_table_size = static_cast<std::uint32_t>(table.size());
    return {};
}

}  // namespace

Result<std::vector<BitmapTableEntry>> load_bitmap_table(Image &image, const BitmapDirectoryEntry &entry)
{
    const std::string where = "bitmap table at " + hex(entry.bitmap_table_offset.value);
    if (entry.bitmap_table_size > limits::bitmap_data_bytes_max >> image.geometry().cluster_bits)
        return finding(Finding::bitmap_table_size_wrong, where + ": " + std::to_string(entry.bitmap_table_size) +
                                                             " entries");
    const std::uint64_t bytes = std::uint64_t(entry.bitmap_table_size) * 8;
    if (!fits(entry.bitmap_table_offset.value, bytes, image.store().size()))
        return finding(Finding::bitmap_table_past_end, where);
    Buffer raw(bytes);
    TRY(image.store().read(entry.bitmap_table_offset.value, raw).in(where));
    std::vector<BitmapTableEntry> table(entry.bitmap_table_size);
    for (std::size_t i = 0; i < table.size(); ++i)
        table[i] = TRY(decode_bitmap_table_entry(load_be64(&raw[i * 8]), image.geometry())
                           .in(where + ", entry " + std::to_string(i)));
    return table;
}

Result<BitVector> load_bits(Image &image, const BitmapDirectoryEntry &entry)
{
    BitVector bits(size_of(image, entry).bits);
    TRY(for_each_piece(image, entry, [&](std::uint64_t i, MutableBytes piece) {
        bits.load(i << image.geometry().cluster_bits, piece);
    }));
    return bits;
}

Result<Dirty> how_dirty(Image &image, const BitmapDirectoryEntry &entry)
{
    const BitmapSize size = size_of(image, entry);
    std::uint64_t bits = 0;
    bool last = false;
    TRY(for_each_piece(image, entry, [&](std::uint64_t i, MutableBytes piece) {
        if ((i << image.geometry().cluster_bits) + piece.size() == size.data_bytes) {
            const std::uint64_t in_last_byte = (size.bits - 1) % 8;  // the last bit's number
            piece.back() &= 0xff >> (7 - in_last_byte);
            last = piece.back() >> in_last_byte;
        }
        for (const std::uint8_t byte : piece)
            bits += std::popcount(byte);
    }));
    // The last granule may reach behind the end.
    return Dirty{bits, bits * entry.granularity() - (last ? size.bits * entry.granularity() - image.disk_size() : 0)};
}

Result<void> write_bits(Aside &aside, Image &image, const BitVector &bits, BitmapDirectoryEntry &entry)
{
    const Geometry &geometry = image.geometry();
    const Bytes data = bits.bytes();
    const std::uint64_t cluster_bits = geometry.cluster_size() * 8;  // of one data cluster
    std::vector<BitmapTableEntry> table(geometry.clusters_for(data.size()));
    std::vector<std::size_t> with_cluster;
    for (std::size_t i = 0; i < table.size(); ++i) {
        const Range range{i * cluster_bits, std::min((i + 1) * cluster_bits, bits.size())};
        table[i].all_ones = range.length() == cluster_bits && bits.all(range);
        if (!table[i].all_ones && !bits.none(range))
            with_cluster.push_back(i);
    }
    const auto clusters = TRY(take_clusters(aside, with_cluster.size()).in("bitmap data"));
    Buffer bytes;
    for (std::size_t n = 0; n < clusters.size(); ++n) {
        const std::size_t i = with_cluster[n];
        const std::uint64_t begin = i << geometry.cluster_bits;
        const Bytes piece = sub(data, begin, std::min(geometry.cluster_size(), data.size() - begin));
        bytes.assign(piece.begin(), piece.end());
        bytes.resize(geometry.cluster_size());
        table[i].data = geometry.offset_of(clusters[n]);
        TRY(image.store().write(table[i].data.value, bytes).in("bitmap data"));
    }
    return write_table(aside, table, entry);
}

Result<void> write_uniform_bits(Aside &aside, Image &image, std::uint64_t disk_size, bool value,
                                BitmapDirectoryEntry &entry)
{
    const Geometry &geometry = image.geometry();
    const BitmapSize size = BitmapSize::of(disk_size, entry.granularity_bits, geometry);
    const std::uint64_t cluster_bits = geometry.cluster_size() * 8;
    std::vector<BitmapTableEntry> table(size.table_entries, BitmapTableEntry{HostOffset(), value});
    const std::uint64_t tail_bits = size.bits % cluster_bits;
    if (tail_bits != 0) {  // the bits behind the last one must be zero, and B7
        const BitVector last(tail_bits, value);
        const Bytes piece = last.bytes();
        table.back() = {TRY(aside.write(Buffer(piece.begin(), piece.end())).in("bitmap data")), false};
    }
    return write_table(aside, table, entry);
}

Result<BitmapClusters> BitmapClusters::of(Image &image, const BitmapDirectory &directory)
{
    BitmapClusters clusters(image, directory.clusters());
    const auto count = [&](const HostRun &run) {
        for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
            ++clusters.uses_[cluster];
    };
    count(directory.clusters());
    for (const BitmapDirectoryEntry &entry : directory.entries) {
        const auto runs = clusters.runs_of(entry);
        if (!runs && runs.error().code == Errc::io)
            return runs.error();
        if (runs)
            for (const HostRun &run : *runs)
                count(run);
    }
    TRY(clusters.count_tables());
    return clusters;
}

// Whatever else is there, as far as bitmaps or their directory have a cluster of it.
void BitmapClusters::count_other(HostRun run)
{
    for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
        if (const auto uses = uses_.find(cluster); uses != uses_.end())
            ++uses->second;
}

// A table of words that name tables of one cluster each, and what it names.
Result<void> BitmapClusters::count_table(HostOffset offset, std::uint64_t entries)
{
    const Geometry &geometry = image_.geometry();
    if (!fits(offset.value, entries * 8, image_.store().size()))
        return {};  // that is told elsewhere
    count_other({geometry.cluster_of(offset), geometry.clusters_for(entries * 8)});
    Buffer raw(entries * 8);
    TRY(image_.store().read(offset.value, raw).in("table at " + hex(offset.value)));
    for (std::uint64_t i = 0; i < entries; ++i)
        if (const HostOffset named(load_be64(&raw[i * 8]) & entry_offset_mask); named.value != 0)
            count_other({geometry.cluster_of(named), 1});
    return {};
}

Result<void> BitmapClusters::count_tables()
{
    const Geometry &geometry = image_.geometry();
    const Header header = image_.header().header();
    count_other({HostCluster(0), 1});
    TRY(count_table(header.refcount_table_offset, header.refcount_table_clusters * geometry.cluster_size() / 8));
    TRY(count_table(header.l1_table_offset, header.l1_size));
    const auto snapshots = load_snapshots(image_.store(), header);
    if (!snapshots)
        return snapshots.error().code == Errc::io ? snapshots.error() : Result<void>();
    if (!snapshots->snapshots.empty())
        count_other({geometry.cluster_of(header.snapshots_offset), geometry.clusters_for(snapshots->encoded_size)});
    for (const Snapshot &snapshot : snapshots->snapshots)
        if (!snapshot.finding)
            TRY(count_table(snapshot.l1_table_offset, snapshot.l1_size));
    return {};
}

Result<std::vector<HostRun>> BitmapClusters::runs_of(const BitmapDirectoryEntry &entry) const
{
    const Geometry &geometry = image_.geometry();
    if (entry.bitmap_table_offset.value == 0 || !geometry.is_aligned(entry.bitmap_table_offset))
        return finding(Finding::bitmap_table_unaligned);
    std::vector<HostRun> runs = {{geometry.cluster_of(entry.bitmap_table_offset),
                                  geometry.clusters_for(std::uint64_t(entry.bitmap_table_size) * 8)}};
    for (const BitmapTableEntry &e : TRY(load_bitmap_table(image_, entry)))
        if (e.has_cluster())
            runs.push_back({geometry.cluster_of(e.data), 1});
    return runs;
}

Result<bool> BitmapClusters::owns(const std::vector<HostRun> &runs) const
{
    for (const HostRun &run : runs)
        for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
            if (const auto uses = uses_.find(cluster); uses == uses_.end() || uses->second != 1 ||
                TRY(image_.allocator().refcount(cluster)) != 1)
                return false;
    return true;
}

void BitmapClusters::release(Aside &aside, const BitmapDirectoryEntry &entry) const
{
    const auto runs = runs_of(entry);
    const auto owned = runs ? owns(*runs) : false;
    if (!owned || !*owned) {
        log_warning("bitmap " + quote(entry.name) + ": its clusters cannot be told from others' and "
                    "are not given back; 'qcow2-check=leaks' frees them");
        return;
    }
    for (const HostRun &run : *runs)
        aside.replace(run);
}

Result<void> BitmapClusters::check(const BitmapDirectoryEntry &entry) const
{
    const Geometry &geometry = image_.geometry();
    for (const HostRun &run : TRY(runs_of(entry))) {
        const std::string place = hex(geometry.offset_of(run.first).value);
        if (geometry.offset_of(run.first).value >= image_.store().size())
            return finding(Finding::bitmap_data_past_end, place);
        for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
            if (uses_.at(cluster) != 1)
                return finding(Finding::tables_overlap, place);
    }
    return {};
}

Result<std::vector<BitmapTableEntry>> BitmapClusters::own_table(const BitmapDirectoryEntry &entry) const
{
    const Geometry &geometry = image_.geometry();
    const BitmapSize size = size_of(image_, entry);
    const Error no_space(Errc::no_space, "there is no room for a new table, and the old one cannot be trusted");
    if (entry.bitmap_table_size != size.table_entries)
        return no_space;
    const auto runs = runs_of(entry);
    if (!runs)
        return runs.error().code == Errc::io ? runs.error() : no_space;
    for (const HostRun &run : *runs)
        if (!fits(geometry.offset_of(run.first).value, run.count << geometry.cluster_bits, image_.store().size()))
            return no_space;
    if (!TRY(owns(*runs)))
        return no_space;
    return load_bitmap_table(image_, entry);
}

namespace {

// A cluster that can be named: its refcount is durable (W1), and it has its room.
Result<HostOffset> take_durably(Image &image)
{
    const HostRun run = TRY(image.allocator().take(1)).run;
    const HostOffset offset = image.geometry().offset_of(run.first);
    const Result<void> written =
        image.store().write(offset.value, Buffer(image.geometry().cluster_size()));
    if (!written) {
        image.allocator().give_back(run);
        return written.error();
    }
    TRY(image.store().flush());
    return offset;
}

}  // namespace

Result<void> set_bits_in_place(Image &image, const BitmapDirectoryEntry &entry, std::vector<BitmapTableEntry> table)
{
    const Geometry &geometry = image.geometry();
    const BitmapSize size = size_of(image, entry);
    const std::uint64_t tail_bits = size.bits % (geometry.cluster_size() * 8);
    if (tail_bits != 0 && !table.back().has_cluster()) {
        // It needs a cluster, and any other does without.
        const auto some = std::ranges::find_if(table, &BitmapTableEntry::has_cluster);
        if (some != table.end())
            table.back() = std::exchange(*some, BitmapTableEntry{});
        else
            table.back() = {TRY(take_durably(image).in("there is no room for its last bits")), false};
    }
    Buffer bytes(table.size() * 8);
    for (std::size_t i = 0; i < table.size(); ++i) {
        table[i].all_ones = !table[i].has_cluster();
        store_be64(&bytes[i * 8], table[i].raw());
        if (table[i].all_ones)
            continue;
        Buffer data(geometry.cluster_size(), 0xff);
        if (i + 1 == table.size() && tail_bits != 0) {
            const BitVector last(tail_bits, true);
            std::fill(data.begin(), data.end(), 0);
            std::ranges::copy(last.bytes(), data.begin());
        }
        TRY(image.store().write(table[i].data.value, data).in("bitmap data at " + hex(table[i].data.value)));
    }
    TRY(image.store().write(entry.bitmap_table_offset.value, bytes).in("bitmap table"));
    return image.store().flush();
}

}  // namespace qcow2
