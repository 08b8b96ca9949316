// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/backup_source.h"

#include <algorithm>
#include <cstddef>

namespace qcow2 {

namespace {

// What there is after so many is the answer; somebody may have changed every other granule.
constexpr std::size_t extents_max = 1 << 14;

void append(std::vector<Extent> &extents, const Extent &extent)
{
    if (!extents.empty() && extents.back().same_kind(extent))
        extents.back().length += extent.length;
    else
        extents.push_back(extent);
}

}  // namespace

Result<std::vector<Extent>> dirty_status(BackupSource &source, const BackupBitmap &bitmap,
                                         std::uint64_t offset, std::uint64_t length)
{
    std::vector<Extent> extents;
    for (const std::uint64_t end = offset + length; offset < end && extents.size() < extents_max;) {
        const std::uint64_t bit = offset >> bitmap.granularity_bits;
        // The last granule may reach behind the end.
        const auto until = [&](bool set) {
            return std::min(end, bitmap.next(bit, set) << bitmap.granularity_bits) - offset;
        };
        if (bitmap.next(bit, true) != bit) {
            const std::uint64_t clean = until(true);
            append(extents, {clean, true, false});
            offset += clean;
            continue;
        }
        for (const Extent &extent : TRY(source.status(offset, until(false)))) {
            append(extents, {extent.length, extent.zero, extent.zero});
            offset += extent.length;
        }
    }
    return extents;
}

}  // namespace qcow2
