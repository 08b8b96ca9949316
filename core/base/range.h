// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Range: a half-open interval of bytes (or of whatever the context counts).
// Pure.

#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/arith.h"

namespace qcow2 {

struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;

    static constexpr Range of(std::uint64_t begin, std::uint64_t length)
    {
        return {begin, begin + length};
    }

    constexpr std::uint64_t length() const { return end - begin; }
    constexpr bool empty() const { return begin >= end; }
    constexpr bool overlaps(const Range &o) const { return begin < o.end && o.begin < end; }
    constexpr bool contains(const Range &o) const { return begin <= o.begin && o.end <= end; }

    // The smallest range of whole granules that covers this one: indices.
    constexpr Range touched(std::uint64_t granularity) const
    {
        return empty() ? Range{} : Range{begin / granularity, (end - 1) / granularity + 1};
    }

    // The largest range of whole granules inside this one: indices. Empty
    // (begin == end) if there is none.
    constexpr Range whole(std::uint64_t granularity) const
    {
        const std::uint64_t first = div_ceil(begin, granularity);
        return {first, std::max(first, end / granularity)};
    }

    friend constexpr bool operator==(const Range &, const Range &) = default;
};

constexpr Range intersection(const Range &a, const Range &b)
{
    const std::uint64_t begin = std::max(a.begin, b.begin);
    return {begin, std::max(begin, std::min(a.end, b.end))};
}

// Of a range of bits: calls visit(word, mask) for each word of 64 bits in which some are.
template <class Visit>
void for_each_word(Range bits, Visit visit)
{
    while (!bits.empty()) {
        const std::uint64_t word = bits.begin / 64;
        const std::uint64_t end = std::min(bits.end, word * 64 + 64);
        visit(word, ~std::uint64_t(0) >> (64 - (end - bits.begin)) << bits.begin % 64);
        bits.begin = end;
    }
}

}  // namespace qcow2
