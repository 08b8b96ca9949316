// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/bitmap_data.h"

#include <algorithm>
#include <bit>

#include "core/base/table_reader.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

BitmapSize size_of(const Image &image, const BitmapDirectoryEntry &entry)
{
    return BitmapSize::of(image.disk_size(), entry.granularity_bits, image.geometry());
}

namespace {

// Calls visit(index, entry) for each entry of the table that is not zero.
template <class Visit>
Result<void> for_each_table_entry(Image &image, const BitmapDirectoryEntry &entry, Visit visit)
{
    const std::string where = formatted("bitmap table at {:#x}", entry.bitmap_table_offset.value);
    if (entry.bitmap_table_size > limits::bitmap_data_bytes_max >> image.geometry().cluster_bits)
        return finding(Finding::bitmap_table_size_wrong, "{}: {} entries", where,
                       entry.bitmap_table_size);
    if (!fits(entry.bitmap_table_offset.value, std::uint64_t(entry.bitmap_table_size) * 8,
              image.store().size()))
        return finding(Finding::bitmap_table_past_end, where);
    const auto decode = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto decoded = decode_bitmap_table_entry(raw, image.geometry());
        if (!decoded)
            return Error(decoded.error()).in("{}, entry {}", where, i);
        return visit(i, *decoded);
    };
    TableBuffer buffer{.where = where};
    return for_each_entry(image.store(), buffer, entry.bitmap_table_offset.value,
                          entry.bitmap_table_size, 8, decode);
}

// Calls function(entry index, bytes) for the data of each table entry, but for those
// that are zeros.
template <class Function>
Result<void> for_each_piece(Image &image, const BitmapDirectoryEntry &entry, Function function)
{
    const Geometry &geometry = image.geometry();
    const BitmapSize size = size_of(image, entry);
    if (entry.bitmap_table_size != size.table_entries)
        return finding(Finding::bitmap_table_size_wrong);
    Buffer piece;
    TableBuffer buffer;
    return for_each_table_entry(
        image, entry, [&](std::uint64_t i, BitmapTableEntry e) -> Result<void> {
            const std::uint64_t begin = i << geometry.cluster_bits;
            piece.assign(std::min(geometry.cluster_size(), size.data_bytes - begin),
                         e.all_ones ? 0xff : 0);
            const auto copy = [&](std::uint64_t at, Bytes part) -> Result<void> {
                std::ranges::copy(part, piece.begin() + static_cast<std::ptrdiff_t>(at));
                return {};
            };
            if (e.has_cluster())
                TRY(for_each_table_piece(image.store(), buffer, e.data.value, piece.size(), 1, copy)
                        .in("bitmap data at {:#x}", e.data.value));
            return function(i, e, MutableBytes(piece));
        });
}

}  // namespace

Result<std::vector<BitmapTableEntry>> load_bitmap_table(Image &image,
                                                        const BitmapDirectoryEntry &entry)
{
    std::vector<BitmapTableEntry> table;
    TRY(for_each_table_entry(image, entry,
                             [&](std::uint64_t i, BitmapTableEntry e) -> Result<void> {
                                 table.resize(i);
                                 table.push_back(e);
                                 return {};
                             }));
    table.resize(entry.bitmap_table_size);
    return table;
}

Result<std::vector<HostRun>> load_bitmap_clusters(Image &image, const BitmapDirectoryEntry &entry)
{
    std::vector<HostRun> runs;
    TRY(for_each_table_entry(image, entry, [&](std::uint64_t, BitmapTableEntry e) -> Result<void> {
        if (e.has_cluster())
            runs.push_back({image.geometry().cluster_of(e.data), 1});
        return {};
    }));
    return runs;
}

Result<BitVector> load_bits(Image &image, const BitmapDirectoryEntry &entry)
{
    BitVector bits(size_of(image, entry).bits);
    TRY(for_each_piece(image, entry,
                       [&](std::uint64_t i, const auto &, MutableBytes piece) -> Result<void> {
                           bits.load(i << image.geometry().cluster_bits, piece);
                           return {};
                       }));
    return bits;
}

Result<Dirty> how_dirty(Image &image, const BitmapDirectoryEntry &entry, ClusterSet *read)
{
    const Geometry &geometry = image.geometry();
    const BitmapSize size = size_of(image, entry);
    if (read && !read->add({geometry.cluster_of(entry.bitmap_table_offset),
                            geometry.clusters_for(std::uint64_t(entry.bitmap_table_size) * 8)}))
        return finding(Finding::tables_overlap, "bitmap table at {:#x}",
                       entry.bitmap_table_offset.value);
    std::uint64_t bits = 0;
    bool last = false;
    TRY(for_each_piece(
        image, entry, [&](std::uint64_t i, const auto &e, MutableBytes piece) -> Result<void> {
            if (read && e.has_cluster() && !read->add({geometry.cluster_of(e.data), 1}))
                return finding(Finding::tables_overlap, "bitmap data at {:#x}", e.data.value);
            if ((i << geometry.cluster_bits) + piece.size() == size.data_bytes) {
                const std::uint64_t in_last_byte = (size.bits - 1) % 8;  // the last bit's number
                piece.back() &= 0xff >> (7 - in_last_byte);
                last = piece.back() >> in_last_byte;
            }
            for (const std::uint8_t byte : piece)
                bits += std::popcount(byte);
            return {};
        }));
    // The last granule may reach behind the end.
    return Dirty{bits, bits * entry.granularity() -
                           (last ? size.bits * entry.granularity() - image.disk_size() : 0)};
}

}  // namespace qcow2
