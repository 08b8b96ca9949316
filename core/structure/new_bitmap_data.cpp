// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/new_bitmap_data.h"

#include <algorithm>
#include <utility>

#include "core/bitmap/bitmap_data.h"

namespace qcow2 {

namespace {

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

Result<void> write_table(Aside &aside, const std::vector<BitmapTableEntry> &table,
                         BitmapDirectoryEntry &entry)
{
    entry.bitmap_table_offset =
        TRY(aside.write(encode_entries<BitmapTableEntry>(table)).in("bitmap table"));
    entry.bitmap_table_size = static_cast<std::uint32_t>(table.size());
    return {};
}

}  // namespace

Result<void> write_bits(Aside &aside, Image &image, const BitVector &bits,
                        BitmapDirectoryEntry &entry)
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
        const Bytes piece =
            sub(data, begin, std::min(geometry.cluster_size(), data.size() - begin));
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
        table.back() = {TRY(aside.write(Buffer(piece.begin(), piece.end())).in("bitmap data")),
                        false};
    }
    return write_table(aside, table, entry);
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

Result<void> set_bits_in_place(Image &image, const BitmapDirectoryEntry &entry,
                               std::vector<BitmapTableEntry> table)
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
            table.back() = {TRY(take_durably(image).in("there is no room for its last bits")),
                            false};
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
        TRY(image.store()
                .write(table[i].data.value, data)
                .in("bitmap data at {:#x}", table[i].data.value));
    }
    TRY(image.store().write(entry.bitmap_table_offset.value, bytes).in("bitmap table"));
    return image.store().flush();
}

}  // namespace qcow2
