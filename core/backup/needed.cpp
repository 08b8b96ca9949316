// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/needed.h"

#include <algorithm>

namespace qcow2 {

namespace {

// The first unit, from this one to the end, in which a bit is set, or the end.
std::uint64_t next_needed(const NeededAroundBits::Bits &bits, Range units)
{
    constexpr std::uint64_t unit = NeededAroundBits::unit_bytes;
    const std::uint64_t bit =
        bits.next(std::min(units.begin * unit / bits.granularity, bits.count), true);
    if (bit == bits.count)
        return units.end;
    return std::clamp(bit * bits.granularity / unit, units.begin, units.end);
}

// The first unit, from this one to the end, in which no bit is set, or the end.
// This one is needed.
std::uint64_t next_not_needed(const NeededAroundBits::Bits &bits, Range units)
{
    constexpr std::uint64_t unit = NeededAroundBits::unit_bytes;
    if (bits.granularity >= unit) {
        const std::uint64_t bit = bits.next(units.begin * unit / bits.granularity, false);
        return std::clamp(bit * bits.granularity / unit, units.begin, units.end);
    }
    std::uint64_t at = units.begin;
    while (at < units.end && next_needed(bits, {at, at + 1}) == at)
        ++at;
    return at;
}

}  // namespace

Needed::Run NeededAroundBits::run(Range blocks) const
{
    constexpr std::uint64_t unit_blocks = unit_bytes / block_bytes;
    const Range units = blocks.touched(unit_blocks);
    std::uint64_t needed_from = units.end;
    std::uint64_t needed_to = units.begin;
    for (const Bits &bits : bitmaps_) {
        const std::uint64_t from = next_needed(bits, units);
        needed_from = std::min(needed_from, from);
        if (from == units.begin)
            needed_to = std::max(needed_to, next_not_needed(bits, units));
    }
    const bool needed = needed_to > units.begin;
    const std::uint64_t end = (needed ? needed_to : needed_from) * unit_blocks;
    return {needed, std::min(end, blocks.end) - blocks.begin};
}

}  // namespace qcow2
