// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/bitmap_data.h"

#include <algorithm>
#include <bit>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

BitmapSize size_of(const Image &image, const BitmapDirectoryEntry &entry)
{
    return BitmapSize::of(image.disk_size(), entry.granularity_bits, image.geometry());
}

namespace {

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

}  // namespace qcow2
