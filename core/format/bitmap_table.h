// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The sizes of a bitmap: bits, bytes of data, table entries, for a disk size
// and a granularity. Pure.

#pragma once

#include <cstdint>
#include <optional>

#include "core/base/result.h"
#include "core/format/geometry.h"

namespace qcow2 {

struct BitmapSize {
    std::uint64_t bits = 0;           // granules of the disk
    std::uint64_t data_bytes = 0;     // ceil(bits / 8)
    std::uint64_t table_entries = 0;  // ceil(data_bytes / cluster size)

    static BitmapSize of(std::uint64_t disk_size, std::uint32_t granularity_bits,
                         const Geometry &geometry);
};

// Whether QEMU would take a bitmap of this granularity on this disk: 512 to
// 2G, at most 512 MiB of data in whole clusters, a disk that is not empty.
// The error names a granularity that would do.
Result<void> check_bitmap_limits(std::uint64_t disk_size, std::uint32_t granularity_bits,
                                 const Geometry &geometry);

// The granularity QEMU takes by itself: the cluster size, but 4K to 64K.
std::uint32_t default_granularity_bits(const Geometry &geometry);

}  // namespace qcow2
