// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/qcow2_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/log.h"
#include "core/format/bitmap_table.h"
#include "core/format/extensions.h"
#include "core/format/limits.h"
#include "core/format/table_entry.h"

namespace qcow2 {

namespace {

using Kind = FileClusters::Kind;

constexpr Geometry geometry{};  // 64 KiB, refcounts of 16 bits
static_assert(geometry.cluster_size() == Qcow2File::cluster_size && geometry.refcount_bits() == 16);

constexpr std::uint64_t piece_bits = Qcow2File::cluster_size * 8;  // of a bitmap

// The bytes from this offset on of a table of big-endian words: word(i) is the i-th.
template <class Word>
void fill_words(std::uint64_t offset, MutableBytes bytes, Word word)
{
    while (!bytes.empty()) {
        std::uint8_t raw[8];
        store_be64(raw, word(offset / 8));
        const std::size_t length = std::min<std::size_t>(8 - offset % 8, bytes.size());
        std::memcpy(bytes.data(), raw + offset % 8, length);
        offset += length;
        bytes = bytes.subspan(length);
    }
}

// The bytes from this offset on of what is shorter than its clusters.
void copy_padded(Bytes from, std::uint64_t offset, MutableBytes bytes)
{
    const std::uint64_t there =
        offset < from.size() ? std::min<std::uint64_t>(bytes.size(), from.size() - offset) : 0;
    std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(there == 0 ? 0 : offset), there,
                bytes.begin());
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(there), bytes.end(), std::uint8_t(0));
}

// The bytes from this offset on of the bitmap as it stands in a file.
void fill_bits(const BackupBitmap &bitmap, std::uint64_t bits, std::uint64_t offset,
               MutableBytes bytes)
{
    std::fill(bytes.begin(), bytes.end(), std::uint8_t(0));
    const std::uint64_t first = offset * 8, end = std::min(first + bytes.size() * 8, bits);
    for (std::uint64_t at = first; at < end;) {
        const std::uint64_t set = bitmap.next(at, true);
        if (set >= end)
            break;
        at = std::min(bitmap.next(set, false), end);
        for (std::uint64_t bit = set; bit < at; ++bit) {
            std::uint8_t &byte = bytes[(bit - first) / 8];
            if (bit % 8 == 0 && at - bit >= 8)
                byte = 0xff, bit += 7;
            else
                byte = static_cast<std::uint8_t>(byte | 1 << bit % 8);
        }
    }
}

}  // namespace

Qcow2File::Qcow2File(std::uint64_t disk_size)
    : disk_size_(disk_size), clusters_(geometry.clusters_for(disk_size), geometry.l2_entries())
{
    header_.size = disk_size;
    header_.cluster_bits = geometry.cluster_bits;
}

Result<std::unique_ptr<Qcow2File>> Qcow2File::make(BackupSource &source, const Wish &wish)
{
    const std::uint64_t disk_size = source.size();
    if (geometry.l1_entries_for(disk_size) > limits::l1_bytes_max / 8)
        return Error(Errc::unsupported,
                     "a qcow2 file with clusters of 64K cannot have a disk of {} bytes", disk_size);
    if (wish.backing_file.size() > limits::backing_file_size_max)
        return Error(Errc::invalid, "the name of a backing file has at most 1023 bytes, {} has {}",
                     quote(wish.backing_file), wish.backing_file.size());
    // QEMU knows no bitmap of a disk of no bytes.
    const std::vector<BackupBitmap> bitmaps =
        disk_size == 0 ? std::vector<BackupBitmap>() : source.bitmaps();
    std::unique_ptr<Qcow2File> file(new Qcow2File(disk_size));
    TRY(file->find_clusters(source, wish));
    TRY(file->find_pieces(bitmaps));
    file->place(bitmaps);
    TRY(file->make_header(bitmaps, wish));
    return file;
}

// --- What there is.

Result<void> Qcow2File::find_clusters(BackupSource &source, const Wish &wish)
{
    if (!wish.dirty)
        TRY(find_clusters(source, {0, disk_size_}, Kind::absent));
    else
        TRY(find_dirty_clusters(source, source.bitmaps()[*wish.dirty]));
    clusters_.finish();
    return {};
}

Result<void> Qcow2File::find_dirty_clusters(BackupSource &source, const BackupBitmap &bitmap)
{
    const std::uint32_t shift = bitmap.granularity_bits;
    const std::uint64_t bits = BitmapSize::of(disk_size_, shift, geometry).bits;
    std::uint64_t done = 0;  // bytes
    for (std::uint64_t bit = 0; bit < bits;) {
        const std::uint64_t set = bitmap.next(bit, true);
        if (set >= bits)
            break;
        bit = bitmap.next(set, false);
        // Whole clusters. Two runs may be in one.
        const std::uint64_t begin = std::max(align_down(set << shift, cluster_size), done);
        done = std::max(done, align_up(std::min(bit << shift, disk_size_), cluster_size));
        if (begin < std::min(done, disk_size_))
            TRY(find_clusters(source, {begin, std::min(done, disk_size_)}, Kind::zero));
    }
    return {};
}

// From a cluster on, to the end of one, or of the disk.
Result<void> Qcow2File::find_clusters(BackupSource &source, Range bytes, Kind zeros)
{
    clusters_.set(bytes.touched(cluster_size), zeros);
    while (!bytes.empty())
        for (const Extent &extent : TRY(source.status(bytes.begin, bytes.length()))) {
            const Range part = Range::of(bytes.begin, std::min(extent.length, bytes.length()));
            if (!extent.zero)
                clusters_.set(part.touched(cluster_size), Kind::data);
            bytes.begin = part.end;
        }
    return {};
}

Result<void> Qcow2File::find_pieces(const std::vector<BackupBitmap> &bitmaps)
{
    for (const BackupBitmap &bitmap : bitmaps) {
        TRY(check_bitmap_limits(disk_size_, bitmap.granularity_bits, geometry)
                .in("bitmap {}", quote(bitmap.name)));
        const BitmapSize size = BitmapSize::of(disk_size_, bitmap.granularity_bits, geometry);
        Pieces pieces;
        for (std::uint64_t set = bitmap.next(0, true); set < size.bits;) {
            pieces.push_back(set / piece_bits);
            const std::uint64_t next = (set / piece_bits + 1) * piece_bits;
            set = next < size.bits ? bitmap.next(next, true) : size.bits;
        }
        pieces_.push_back(std::move(pieces));
    }
    return {};
}

// --- Where it is.

HostOffset Qcow2File::offset_of(const Part &part, std::uint64_t n) const
{
    return geometry.offset_of(HostCluster(part.first + n));
}

void Qcow2File::place(const std::vector<BackupBitmap> &bitmaps)
{
    parts_.resize(first_bitmap + 2 * bitmaps.size() + 1);
    std::uint64_t directory_bytes = 0;
    for (std::size_t b = 0; b < bitmaps.size(); ++b) {
        BitmapDirectoryEntry entry;
        entry.name = bitmaps[b].name;
        directory_bytes += entry.encoded_size();
        const BitmapSize size = BitmapSize::of(disk_size_, bitmaps[b].granularity_bits, geometry);
        parts_[first_bitmap + 2 * b].count = geometry.clusters_for(size.table_entries * 8);
        parts_[first_bitmap + 2 * b + 1].count = pieces_[b].size();
    }
    parts_[cluster_0].count = 1;
    parts_[l1].count = geometry.clusters_for(geometry.l1_entries_for(disk_size_) * 8);
    parts_[l2].count = clusters_.used_count();
    parts_[directory].count = geometry.clusters_for(directory_bytes);
    parts_.back().count = clusters_.data_count();
    // The refcounts count themselves, too: until there are enough.
    const auto count = [&] {
        std::uint64_t clusters = 0;
        for (const Part &part : parts_)
            clusters += part.count;
        return clusters;
    };
    for (std::uint64_t counted = 0; counted != count();) {
        counted = count();
        parts_[refcount_blocks].count = div_ceil(counted, geometry.refcount_block_entries());
        parts_[refcount_table].count = geometry.clusters_for(parts_[refcount_blocks].count * 8);
    }
    std::uint64_t next = 0;
    for (Part &part : parts_) {
        part.first = next;
        next = part.end();
    }
    size_ = next * cluster_size;
}

Result<void> Qcow2File::make_header(const std::vector<BackupBitmap> &bitmaps, const Wish &wish)
{
    header_.l1_size = static_cast<std::uint32_t>(geometry.l1_entries_for(disk_size_));
    header_.l1_table_offset = header_.l1_size == 0 ? HostOffset() : offset_of(parts_[l1]);
    header_.refcount_table_offset = offset_of(parts_[refcount_table]);
    header_.refcount_table_clusters = static_cast<std::uint32_t>(parts_[refcount_table].count);
    HeaderArea area;
    if (!bitmaps.empty()) {
        std::vector<BitmapDirectoryEntry> entries;
        for (std::size_t i = 0; i < bitmaps.size(); ++i) {
            BitmapDirectoryEntry entry;
            entry.name = bitmaps[i].name;
            entry.granularity_bits = static_cast<std::uint8_t>(bitmaps[i].granularity_bits);
            entry.bitmap_table_offset = offset_of(parts_[first_bitmap + 2 * i]);
            entry.bitmap_table_size = static_cast<std::uint32_t>(
                BitmapSize::of(disk_size_, bitmaps[i].granularity_bits, geometry).table_entries);
            entries.push_back(std::move(entry));
        }
        directory_bytes_ = encode_bitmap_directory(entries);
        area.extensions.push_back(
            encode_bitmaps_extension({static_cast<std::uint32_t>(entries.size()),
                                      directory_bytes_.size(), offset_of(parts_[directory])}));
        header_.autoclear_features = autoclear::bitmaps;
    }
    if (!wish.backing_file.empty()) {
        const std::string &format = wish.backing_format;
        area.extensions.push_back(
            {ExtensionType::backing_format, Buffer(format.begin(), format.end())});
        area.backing_file_name = wish.backing_file;
    }
    area.header = header_;
    header_bytes_ = TRY(encode_header_area(area, Buffer(cluster_size)).in("header"));
    return {};
}

// --- What its bytes are.

Result<void> Qcow2File::read(BackupSource &source, std::uint64_t offset, MutableBytes bytes) const
{
    if (!fits(offset, bytes.size(), size_))
        return Error(Errc::invalid, "the request ends at {:#x}, the file at {:#x}",
                     offset + bytes.size(), size_);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
        const std::uint64_t begin = parts_[i].first * cluster_size;
        const Range there =
            intersection(Range::of(offset, bytes.size()), {begin, parts_[i].end() * cluster_size});
        if (!there.empty())
            TRY(read_part(source, i, there.begin - begin,
                          sub(bytes, there.begin - offset, there.length())));
    }
    return {};
}

// From an offset in this part on.
Result<void> Qcow2File::read_part(BackupSource &source, std::size_t part, std::uint64_t offset,
                                  MutableBytes bytes) const
{
    if (part == parts_.size() - 1)
        return read_data(source, offset, bytes);
    switch (part) {
    case cluster_0: copy_padded(header_bytes_, offset, bytes); break;
    case directory: copy_padded(directory_bytes_, offset, bytes); break;
    case refcount_table:
        fill_words(offset, bytes, [&](std::uint64_t i) {
            return i < parts_[refcount_blocks].count ? offset_of(parts_[refcount_blocks], i).value
                                                     : 0;
        });
        break;
    case refcount_blocks:  // two bytes for each cluster of the file, 0 and 1
        for (std::uint64_t i = 0; i < bytes.size(); ++i)
            bytes[i] = (offset + i) % 2 == 1 && (offset + i) / 2 < size_ / cluster_size;
        break;
    case l1:
        fill_words(offset, bytes, [&](std::uint64_t i) {
            const bool there = i < clusters_.pages() && clusters_.is_used(i);
            return there ? L1Entry::of(offset_of(parts_[l2], clusters_.used_before(i)), true).raw()
                         : 0;
        });
        break;
    case l2: read_l2(offset, bytes); break;
    default:
        const std::size_t bitmap = (part - first_bitmap) / 2;
        if ((part - first_bitmap) % 2 == 0)
            read_bitmap_table(bitmap, offset, bytes);
        else
            read_bits(source, bitmap, offset, bytes);
    }
    return {};
}

void Qcow2File::read_l2(std::uint64_t offset, MutableBytes bytes) const
{
    std::uint64_t page = ~std::uint64_t(0), before = 0;  // of the entry that comes next
    fill_words(offset, bytes, [&](std::uint64_t i) -> std::uint64_t {
        const std::uint64_t table = clusters_.used_page(i / clusters_.page_clusters());
        const std::uint64_t cluster =
            table * clusters_.page_clusters() + i % clusters_.page_clusters();
        if (cluster >= geometry.clusters_for(disk_size_))
            return 0;
        if (std::exchange(page, table) != table)
            before = clusters_.data_before(cluster);
        switch (clusters_.kind(cluster)) {
        case Kind::absent: return 0;
        case Kind::zero: return l2_entry_zero;
        case Kind::data: break;
        }
        return offset_of(data(), before++).value | entry_copied;
    });
}

void Qcow2File::read_bitmap_table(std::size_t bitmap, std::uint64_t offset,
                                  MutableBytes bytes) const
{
    const Pieces &pieces = pieces_[bitmap];
    fill_words(offset, bytes, [&](std::uint64_t i) -> std::uint64_t {
        const auto found = std::ranges::lower_bound(pieces, i);
        if (found == pieces.end() || *found != i)
            return 0;
        return offset_of(parts_[first_bitmap + 2 * bitmap + 1],
                         std::uint64_t(found - pieces.begin()))
            .value;
    });
}

void Qcow2File::read_bits(BackupSource &source, std::size_t bitmap, std::uint64_t offset,
                          MutableBytes bytes) const
{
    const BackupBitmap &from = source.bitmaps()[bitmap];
    const std::uint64_t bits = BitmapSize::of(disk_size_, from.granularity_bits, geometry).bits;
    while (!bytes.empty()) {
        const std::uint64_t in_piece = offset % cluster_size;
        const std::uint64_t length = std::min<std::uint64_t>(cluster_size - in_piece, bytes.size());
        const std::uint64_t piece = pieces_[bitmap][offset / cluster_size];
        fill_bits(from, bits, piece * cluster_size + in_piece, sub(bytes, 0, length));
        offset += length;
        bytes = bytes.subspan(length);
    }
}

// What lies side by side on the disk is read in one piece.
Result<void> Qcow2File::read_data(BackupSource &source, std::uint64_t offset,
                                  MutableBytes bytes) const
{
    while (!bytes.empty()) {
        const std::uint64_t first = clusters_.data_cluster(offset / cluster_size);
        const std::uint64_t begin = first * cluster_size + offset % cluster_size;
        std::uint64_t end = (first + 1) * cluster_size;
        while (end - begin < bytes.size() && end < disk_size_ &&
               clusters_.kind(end / cluster_size) == Kind::data)
            end += cluster_size;
        const std::uint64_t length = std::min<std::uint64_t>(end - begin, bytes.size());
        // The last cluster may reach behind the end of the disk.
        const std::uint64_t there = begin < disk_size_ ? std::min(length, disk_size_ - begin) : 0;
        if (there != 0)
            TRY(source.read(GuestOffset(begin), sub(bytes, 0, there)));
        std::memset(bytes.data() + there, 0, length - there);
        offset += length;
        bytes = bytes.subspan(length);
    }
    return {};
}

}  // namespace qcow2
