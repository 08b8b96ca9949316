// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/bitmap_data.h"

#include <algorithm>
#include <bit>

#include "core/base/log.h"
#include "core/format/findings.h"

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

Result<std::uint64_t> dirty_bytes(Image &image, const BitmapDirectoryEntry &entry)
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
    return bits * entry.granularity() - (last ? size.bits * entry.granularity() - image.disk_size() : 0);
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
    if (value && tail_bits != 0) {  // the bits behind the last one must be zero
        const BitVector last(tail_bits, true);
        const Bytes piece = last.bytes();
        table.back() = {TRY(aside.write(Buffer(piece.begin(), piece.end())).in("bitmap data")), false};
    }
    return write_table(aside, table, entry);
}

Result<BitmapClusters> BitmapClusters::of(Image &image, const BitmapDirectory &directory)
{
    BitmapClusters clusters(image);
    const Geometry &geometry = image.geometry();
    const Header header = image.header().header();
    clusters.count({HostCluster(0), 1});
    clusters.count({geometry.cluster_of(header.l1_table_offset),
                    geometry.clusters_for(std::uint64_t(header.l1_size) * 8)});
    clusters.count({geometry.cluster_of(header.refcount_table_offset), header.refcount_table_clusters});
    clusters.count(directory.clusters());
    for (const BitmapDirectoryEntry &entry : directory.entries) {
        const auto runs = clusters.runs_of(entry);
        if (!runs && runs.error().code == Errc::io)
            return runs.error();
        if (runs)
            for (const HostRun &run : *runs)
                clusters.count(run);
    }
    return clusters;
}

void BitmapClusters::count(HostRun run)
{
    for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
        ++uses_[cluster];
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

void BitmapClusters::release(Aside &aside, const BitmapDirectoryEntry &entry) const
{
    const auto runs = runs_of(entry);
    const auto shared = [&](const HostRun &run) {
        for (HostCluster cluster = run.first; cluster < run.end(); ++cluster) {
            const auto uses = uses_.find(cluster);
            if (uses == uses_.end() || uses->second != 1)
                return true;
        }
        return false;
    };
    if (!runs || std::ranges::any_of(*runs, shared)) {
        log_warning("bitmap " + quoted(entry.name) + ": its clusters cannot be told from others' and "
                    "are not given back; 'qcow2-check=leaks' frees them");
        return;
    }
    for (const HostRun &run : *runs)
        aside.replace(run);
}

}  // namespace qcow2
