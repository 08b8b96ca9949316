// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/create.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/format/extensions.h"
#include "core/format/limits.h"
#include "core/format/refcount_block.h"

namespace qcow2 {

namespace {

struct FeatureName {
    std::uint8_t kind;  // 0 incompatible, 1 compatible, 2 autoclear
    std::uint8_t bit;
    const char *name;
};

// For programs that do not know a feature, and must say which one they miss.
constexpr FeatureName feature_names[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

Extension feature_name_table()
{
    constexpr std::size_t entry_bytes = 48;
    Extension table{ExtensionType::feature_names, Buffer(std::size(feature_names) * entry_bytes)};
    std::uint8_t *entry = table.data.data();
    for (const FeatureName &feature : feature_names) {
        entry[0] = feature.kind;
        entry[1] = feature.bit;
        std::memcpy(entry + 2, feature.name, std::strlen(feature.name));
        entry += entry_bytes;
    }
    return table;
}

// Cluster by cluster: header, refcount table, refcount block, L1 table.
constexpr std::uint64_t refcount_table_cluster = 1;
constexpr std::uint64_t refcount_block_cluster = 2;
constexpr std::uint64_t l1_cluster = 3;

Result<Header> header_for(std::uint64_t disk_size)
{
    const Error too_large(Errc::invalid, "no image can have a disk of {} bytes", disk_size);
    if (disk_size > std::uint64_t(1) << 62)
        return too_large;
    Header header;
    header.size = align_up(disk_size, limits::sector);
    while (header.geometry().l1_entries_for(header.size) * 8 > limits::l1_bytes_max) {
        if (header.cluster_bits == limits::cluster_bits_max)
            return too_large;
        ++header.cluster_bits;
    }
    const Geometry geometry = header.geometry();
    const auto place = [&](std::uint64_t cluster) {
        return geometry.offset_of(HostCluster(cluster));
    };
    header.l1_size = static_cast<std::uint32_t>(geometry.l1_entries_for(header.size));
    header.l1_table_offset = header.l1_size == 0 ? HostOffset() : place(l1_cluster);
    header.refcount_table_offset = place(refcount_table_cluster);
    header.refcount_table_clusters = 1;
    return header;
}

// All that a new image has.
Result<Buffer> new_image(std::uint64_t disk_size)
{
    const Header header = TRY(header_for(disk_size));
    const Geometry geometry = header.geometry();
    const std::uint64_t cluster_size = geometry.cluster_size();
    const std::uint64_t clusters =
        l1_cluster + geometry.clusters_for(std::uint64_t(header.l1_size) * 8);

    HeaderArea area;
    area.header = header;
    area.extensions.push_back(feature_name_table());
    Buffer image = TRY(encode_header_area(area, Buffer(cluster_size)));
    image.resize(clusters * cluster_size);
    const auto table = [&](std::uint64_t cluster) {
        return sub(MutableBytes(image), cluster * cluster_size, cluster_size);
    };
    store_be64(table(refcount_table_cluster).data(), refcount_block_cluster * cluster_size);
    for (std::uint64_t i = 0; i < clusters; ++i)
        store_refcount(table(refcount_block_cluster), header.refcount_order, i, 1);
    return image;
}

// Each sector is zero, or what the image has there; the header's is zero. (A
// sector is what a power failure leaves whole.)
bool is_begun(Bytes found, std::uint64_t offset, Bytes image)
{
    for (std::uint64_t at = 0; at < found.size(); at += limits::sector) {
        const Bytes sector =
            found.subspan(at, std::min<std::uint64_t>(limits::sector, found.size() - at));
        const std::uint64_t place = offset + at;
        const bool ours = place != 0 && place + sector.size() <= image.size() &&
                          std::ranges::equal(sector, image.subspan(place, sector.size()));
        if (!ours && !all_zero(sector))
            return false;
    }
    return true;
}

}  // namespace

Result<bool> is_empty(ByteStore &store, std::uint64_t disk_size)
{
    const Buffer image = TRY(new_image(disk_size));
    Buffer buffer(1 << 20);  // whole sectors
    for (std::uint64_t at = 0; at < store.size();) {
        const ByteStore::Stretch stretch = store.stretch(at, store.size() - at);
        if (stretch.hole) {
            // What is not a whole sector is read.
            const std::uint64_t end = align_down(at + stretch.length, limits::sector);
            if (end > at) {
                at = end;
                continue;
            }
        }
        TRY(store.read(at, buffer));  // zeros behind the end
        if (!is_begun(buffer, at, image))
            return false;
        at += buffer.size();
    }
    return true;
}

Result<void> check_disk_size(std::uint64_t disk_size)
{
    TRY(header_for(disk_size));
    return {};
}

Result<void> create_image(ByteStore &store, std::uint64_t disk_size)
{
    const Buffer image = TRY(new_image(disk_size));
    TRY(store.flush());
    if (store.size() < image.size())
        TRY(store.grow(image.size()));
    TRY(store.write(limits::sector,
                    sub(Bytes(image), limits::sector, image.size() - limits::sector)));
    TRY(store.flush());
    return store.write_durable(0, sub(Bytes(image), 0, limits::sector));  // H1
}

}  // namespace qcow2
