// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/bitmap_table.h"

#include <algorithm>
#include <string>

#include "core/format/limits.h"

namespace qcow2 {

namespace {

bool is_small_enough(std::uint64_t disk_size, std::uint32_t granularity_bits,
                     const Geometry &geometry)
{
    const BitmapSize size = BitmapSize::of(disk_size, granularity_bits, geometry);
    return size.table_entries <= limits::bitmap_data_bytes_max >> geometry.cluster_bits;
}

}  // namespace

BitmapSize BitmapSize::of(std::uint64_t disk_size, std::uint32_t granularity_bits,
                          const Geometry &geometry)
{
    INVARIANT(granularity_bits < 64);
    BitmapSize size;
    size.bits = div_ceil(disk_size, std::uint64_t(1) << granularity_bits);
    size.data_bytes = div_ceil(size.bits, 8);
    size.table_entries = geometry.clusters_for(size.data_bytes);
    return size;
}

Result<void> check_bitmap_limits(std::uint64_t disk_size, std::uint32_t granularity_bits,
                                 const Geometry &geometry)
{
    if (granularity_bits < limits::bitmap_granularity_bits_min ||
        granularity_bits > limits::bitmap_granularity_bits_max)
        return Error(Errc::invalid, "the granularity of a bitmap is 512 to 2G, a power of two");
    if (disk_size == 0)
        return Error(Errc::invalid, "a disk of no bytes cannot have a bitmap");
    if (is_small_enough(disk_size, granularity_bits, geometry))
        return {};

    std::uint32_t larger = granularity_bits;
    while (larger < limits::bitmap_granularity_bits_max &&
           !is_small_enough(disk_size, larger, geometry))
        ++larger;
    return Error(Errc::invalid,
                 "a bitmap of granularity {} would be larger than 512 MiB on this disk; "
                 "granularity {} would do",
                 std::uint64_t(1) << granularity_bits, std::uint64_t(1) << larger);
}

std::uint32_t default_granularity_bits(const Geometry &geometry)
{
    return std::clamp(geometry.cluster_bits, 12u, 16u);
}

}  // namespace qcow2
