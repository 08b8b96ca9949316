// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// How a request is cut for a layer that has a smallest and a largest block.
// Where sectors end, if that can be: so a crash finds each of them old or new.
// Pure.

#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/range.h"

namespace qcow2 {

struct BlockLimits {
    std::uint64_t minimum = 1;  // a power of two
    std::uint64_t maximum = 1;  // a multiple of the minimum
};

// One request to the layer: what is asked of it, and what of that is wanted.
// They differ where a block is met in part.
struct Piece {
    Range io;
    Range data;

    bool whole() const { return io == data; }
};

// The first piece of a range, which is not empty and lies inside the layer. The
// last block may be cut short by the end of the layer.
constexpr Piece first_piece(const Range &rest, const BlockLimits &limits, std::uint64_t size)
{
    const std::uint64_t begin = align_down(rest.begin, limits.minimum);
    const Range block{begin, std::min(begin + limits.minimum, size)};
    if (!rest.contains(block))
        return {block, intersection(block, rest)};
    const std::uint64_t end = rest.end == size ? size : align_down(rest.end, limits.minimum);
    if (end - begin <= limits.maximum)
        return {{begin, end}, {begin, end}};
    constexpr std::uint64_t sector = 512;
    std::uint64_t cut = begin + limits.maximum;
    if (limits.minimum <= sector && align_down(cut, sector) > begin)
        cut = align_down(cut, sector);
    return {{begin, cut}, {begin, cut}};
}

}  // namespace qcow2
