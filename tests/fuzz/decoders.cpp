// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Decoders and whatever bytes: what they take is written again as something that they
// take for the same.

#include <algorithm>

#include "core/format/bitmap_directory.h"
#include "core/format/cluster_mapping.h"
#include "core/format/compression.h"
#include "core/format/extensions.h"
#include "core/format/refcount_block.h"
#include "core/format/snapshot_table.h"
#include "core/format/table_entry.h"
#include "tests/fuzz/input.h"

namespace qcow2::test {

namespace {

template <class T>
bool is(const Result<T> &again, const T &before)
{
    return again && *again == before;
}

void header_area(Bytes bytes)
{
    const auto area = decode_header_area(bytes);
    if (!area)
        return;
    Buffer cluster(area->header.geometry().cluster_size());
    std::copy_n(bytes.begin(), std::min(bytes.size(), cluster.size()), cluster.begin());
    const auto encoded = encode_header_area(*area, cluster);
    if (!encoded)
        return;  // no room for what we would write
    const auto again = decode_header_area(*encoded);
    require(again.has_value(), "a header that we wrote is none");
    require(again->backing_file_name == area->backing_file_name, "another backing file");
    require(again->extensions == area->extensions, "other extensions");
}

void bitmap_directory(Bytes bytes, std::uint32_t count, const Geometry &geometry)
{
    auto entries = decode_bitmap_directory(bytes, count, geometry);
    if (!entries)
        return;
    const Buffer encoded = encode_bitmap_directory(*entries);
    require(encoded.size() == bytes.size(), "a directory of another length");
    require(is(decode_bitmap_directory(encoded, count, geometry), *entries), "another directory");
}

void snapshot_table(Bytes bytes, std::uint32_t count, const Geometry &geometry)
{
    const std::uint64_t disk_size = 1 << 20;
    const auto table = decode_snapshot_table(bytes, count, disk_size, geometry);
    if (!table)
        return;
    const auto again =
        decode_snapshot_table(encode_snapshot_table(table->snapshots), count, disk_size, geometry);
    require(again && again->snapshots == table->snapshots, "another snapshot table");
}

void l2_entry(std::uint64_t raw, std::uint64_t second, const Geometry &geometry)
{
    if (geometry.extended_l2) {
        const auto mapping = decode_extended_l2_entry({raw, second}, geometry);
        if (!mapping)
            return;
        require(is(decode_extended_l2_entry(encode_extended_l2_entry(*mapping, geometry), geometry),
                   *mapping),
                "another mapping of an extended entry");
    } else if (const auto mapping = decode_l2_entry(raw, geometry)) {
        require(is(decode_l2_entry(encode_l2_entry(*mapping, geometry), geometry), *mapping),
                "another mapping");
    }
}

void refcounts(Bytes bytes, std::uint32_t order, std::uint64_t index, std::uint64_t value)
{
    Buffer block(bytes.begin(), bytes.end());
    block.resize(512);
    index %= 4096 >> order;
    value &= ~std::uint64_t(0) >> (64 - (1 << order));
    store_refcount(block, order, index, value);
    require(load_refcount(block, order, index) == value, "another refcount");
    require(find_refcount(block, order, index, 4096 >> order, value == 0) == index,
            "a refcount is not found");
}

void compressed(Bytes bytes, CompressionType type, const Geometry &geometry)
{
    Buffer cluster(std::min<std::uint64_t>(geometry.cluster_size(), 65536));
    (void)decompress(type, bytes, cluster);
}

void words(std::uint64_t first, Bytes bytes, const Geometry &geometry)
{
    if (const auto entry = decode_bitmap_table_entry(first, geometry))
        require(is(decode_bitmap_table_entry(entry->raw(), geometry), *entry),
                "another entry of a bitmap table");
    if (const auto entry = decode_l1_entry(first, geometry))
        require(is(decode_l1_entry(entry->raw(), geometry), *entry),
                "another entry of an L1 table");
    if (const auto block = decode_refcount_table_entry(first, geometry))
        require(is(decode_refcount_table_entry(block->value, geometry), *block),
                "another refcount block");
    if (const auto bitmaps = decode_bitmaps_extension(bytes, geometry))
        require(is(decode_bitmaps_extension(encode_bitmaps_extension(*bitmaps).data, geometry),
                   *bitmaps),
                "another bitmaps extension");
}

Geometry any_geometry(FuzzInput &input)
{
    Geometry geometry;
    geometry.version = 2 + static_cast<std::uint32_t>(input.below(2));
    geometry.cluster_bits = 9 + static_cast<std::uint32_t>(input.below(13));
    geometry.refcount_order = static_cast<std::uint32_t>(input.below(7));
    geometry.extended_l2 = geometry.cluster_bits >= 14 && input.below(2) != 0;
    return geometry;
}

}  // namespace

void fuzz_decoders(const std::uint8_t *data, std::size_t size)
{
    FuzzInput input(data, size);
    const std::uint64_t which = input.below(7);
    const Geometry geometry = any_geometry(input);
    const auto count = static_cast<std::uint32_t>(input.below(8));
    const std::uint64_t first = input.number(8);
    const std::uint64_t second = input.number(8);
    const Bytes bytes = input.rest();
    switch (which) {
    case 0: return header_area(bytes);
    case 1: return bitmap_directory(bytes, count, geometry);
    case 2: return snapshot_table(bytes, count, geometry);
    case 3: return l2_entry(first, second, geometry);
    case 4: return refcounts(bytes, geometry.refcount_order, first, second);
    case 5:
        return compressed(bytes, count % 2 ? CompressionType::zstd : CompressionType::deflate,
                          geometry);
    default: return words(first, bytes, geometry);
    }
}

}  // namespace qcow2::test
