// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/image_reader.h"

#include <algorithm>
#include <cstring>

#include "core/format/bitmap_table.h"
#include "core/format/cluster_mapping.h"
#include "core/format/refcount_block.h"

namespace qcow2::test {

Result<ImageReader> ImageReader::open(ByteStore &store)
{
    Buffer cluster(std::min<std::uint64_t>(store.size(), 112));
    TRY(store.read(0, cluster));
    const Header header = TRY(decode_header(cluster));
    // (All that our images have in theirs, and not the zeros of a cluster of 2 MiB.)
    cluster.resize(
        std::min<std::uint64_t>({store.size(), header.geometry().cluster_size(), 64 << 10}));
    TRY(store.read(0, cluster));
    return ImageReader(store, TRY(decode_header_area(cluster)));
}

Result<std::uint64_t> ImageReader::word(std::uint64_t offset) const
{
    std::uint8_t raw[8];
    TRY(store_->read(offset, raw));
    return load_be64(raw);
}

Result<bool> ImageReader::zeros(std::uint64_t offset, std::uint64_t length) const
{
    std::uint8_t piece[4096];
    for (std::uint64_t done = 0; done < length;) {
        const std::uint64_t n = std::min<std::uint64_t>(sizeof piece, length - done);
        TRY(store_->read(offset + done, sub(MutableBytes(piece), 0, n)));
        if (!all_zero(sub(Bytes(piece), 0, n)))
            return false;
        done += n;
    }
    return true;
}

Result<std::uint64_t> ImageReader::l2_entry(GuestCluster cluster) const
{
    const Geometry geometry = area_.header.geometry();
    const std::uint64_t index = geometry.l1_index(cluster);
    if (index >= area_.header.l1_size)
        return std::uint64_t(0);
    const std::uint64_t raw = TRY(word(area_.header.l1_table_offset.value + index * 8));
    const L1Entry entry = TRY(decode_l1_entry(raw, geometry));
    if (!entry.present())
        return std::uint64_t(0);
    return word(entry.l2_table().value + geometry.l2_index(cluster) * 8);
}

Result<void> ImageReader::read(GuestOffset offset, MutableBytes bytes) const
{
    const Geometry geometry = area_.header.geometry();
    while (!bytes.empty()) {
        const std::uint64_t in_cluster = geometry.in_cluster(offset);
        const std::uint64_t piece =
            std::min<std::uint64_t>(bytes.size(), geometry.cluster_size() - in_cluster);
        const MutableBytes out = sub(bytes, 0, piece);
        const std::uint64_t entry = TRY(l2_entry(geometry.cluster_of(offset)));
        const ClusterMapping mapping = TRY(decode_l2_entry(entry, geometry));
        if (std::holds_alternative<Compressed>(mapping))
            return Error(Errc::unsupported, "a compressed cluster");
        if (const Data *data = std::get_if<Data>(&mapping))
            TRY(store_->read(data->host.value + in_cluster, out));
        else
            std::memset(out.data(), 0, out.size());
        bytes = bytes.subspan(piece);
        offset += piece;
    }
    return {};
}

Result<std::uint64_t> ImageReader::refcount(HostCluster cluster) const
{
    const Header &header = area_.header;
    const Geometry geometry = header.geometry();
    const std::uint64_t index = cluster.value >> geometry.refcount_block_bits();
    if (index >= header.refcount_table_clusters * geometry.cluster_size() / 8)
        return std::uint64_t(0);
    const std::uint64_t raw = TRY(word(header.refcount_table_offset.value + index * 8));
    const HostOffset block = TRY(decode_refcount_table_entry(raw, geometry));
    if (block.value == 0)
        return std::uint64_t(0);
    Buffer bytes(geometry.cluster_size());
    TRY(store_->read(block.value, bytes));
    return load_refcount(bytes, header.refcount_order,
                         cluster.value & (geometry.refcount_block_entries() - 1));
}

std::optional<BitmapsExtension> ImageReader::bitmaps_extension() const
{
    const Extension *extension = area_.find(ExtensionType::bitmaps);
    if (!extension || (area_.header.autoclear_features & autoclear::bitmaps) == 0)
        return std::nullopt;
    const auto decoded = decode_bitmaps_extension(extension->data, area_.header.geometry());
    if (!decoded)
        return std::nullopt;
    return *decoded;
}

Result<std::vector<StoredBitmap>> ImageReader::bitmaps() const
{
    std::vector<StoredBitmap> bitmaps;
    const auto extension = bitmaps_extension();
    if (!extension)
        return bitmaps;
    Buffer directory(extension->bitmap_directory_size);
    TRY(store_->read(extension->bitmap_directory_offset.value, directory));
    const auto entries =
        TRY(decode_bitmap_directory(directory, extension->nb_bitmaps, area_.header.geometry()));
    for (const BitmapDirectoryEntry &entry : entries)
        bitmaps.push_back(TRY(bitmap(entry).in("bitmap '" + entry.name + "'")));
    return bitmaps;
}

Result<StoredBitmap> ImageReader::bitmap(const BitmapDirectoryEntry &entry) const
{
    const Geometry geometry = area_.header.geometry();
    if (entry.finding)
        return finding(*entry.finding);
    const auto size = BitmapSize::of(disk_size(), entry.granularity_bits, geometry);
    if (size.table_entries != entry.bitmap_table_size)
        return Error(Errc::corrupt, "the table has not the size that the disk needs");
    StoredBitmap bitmap{entry, {}, BitVector(size.bits)};
    for (std::uint64_t i = 0; i < size.table_entries; ++i) {
        const std::uint64_t raw = TRY(word(entry.bitmap_table_offset.value + i * 8));
        const BitmapTableEntry table_entry = TRY(decode_bitmap_table_entry(raw, geometry));
        const std::uint64_t begin = i << geometry.cluster_bits;
        Buffer piece(std::min(geometry.cluster_size(), size.data_bytes - begin),
                     table_entry.all_ones ? 0xff : 0);
        if (table_entry.has_cluster()) {
            TRY(store_->read(table_entry.data.value, piece));
            // QEMU takes no bits behind the last one.
            const std::uint64_t tail = size.bits % 8;
            if (i + 1 == size.table_entries && tail != 0 && piece.back() >> tail != 0)
                return Error(Errc::corrupt, "bits behind the last one are set");
            if (!TRY(zeros(table_entry.data.value + piece.size(),
                           geometry.cluster_size() - piece.size())))
                return Error(Errc::corrupt, "bytes behind the last bit are set");
        }
        bitmap.bits.load(begin, piece);
        bitmap.table.push_back(table_entry);
    }
    return bitmap;
}

}  // namespace qcow2::test
