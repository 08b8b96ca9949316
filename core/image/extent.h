// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Extent: a part of a disk, for block status.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/result.h"

namespace qcow2 {

struct Extent {
    std::uint64_t length = 0;  // bytes
    bool hole = false;         // nothing is allocated for it
    bool zero = false;         // reads as zeros

    bool same_kind(const Extent &other) const { return hole == other.hole && zero == other.zero; }
};

// Consecutive extents from the offset on, neighbours of one kind as one; at least one if
// length is not 0. status(offset, length_max) tells the first one from an offset on.
//
// What there is after so many steps is the answer: neighbours of one kind may be as many
// as there are clusters, and each a walk down a chain of files.
template <class Status>
Result<std::vector<Extent>> consecutive_extents(std::uint64_t offset, std::uint64_t length,
                                                Status status)
{
    constexpr std::size_t steps_max = 1 << 14;
    std::vector<Extent> extents;
    for (std::size_t steps = 0; length != 0 && steps < steps_max; ++steps) {
        const Extent extent = TRY(status(offset, length));
        if (!extents.empty() && extents.back().same_kind(extent))
            extents.back().length += extent.length;
        else
            extents.push_back(extent);
        offset += extent.length;
        length -= extent.length;
    }
    return extents;
}

}  // namespace qcow2
