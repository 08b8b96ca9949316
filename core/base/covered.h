// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Ranges that may lie one over the other, as the tables of a broken image do: cut
// where any of them begins or ends, so that each part is followed once, however
// many name it. Pure.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <tuple>
#include <vector>

#include "core/base/range.h"

namespace qcow2 {

struct Covered {
    Range range;
    std::uint64_t times = 0;  // how many of the ranges hold it
    std::size_t first = 0;    // the first of those, by index
};

// Ascending. An empty range covers nothing.
inline std::vector<Covered> covered(const std::vector<Range> &ranges)
{
    std::vector<std::tuple<std::uint64_t, bool, std::size_t>> edges;
    for (std::size_t i = 0; i < ranges.size(); ++i)
        if (!ranges[i].empty()) {
            edges.emplace_back(ranges[i].begin, true, i);
            edges.emplace_back(ranges[i].end, false, i);
        }
    std::sort(edges.begin(), edges.end());
    std::vector<Covered> parts;
    std::set<std::size_t> open;
    std::uint64_t begin = 0;
    for (const auto &[at, opens, index] : edges) {
        if (at != begin && !open.empty())
            parts.push_back({{begin, at}, open.size(), *open.begin()});
        begin = at;
        if (opens)
            open.insert(index);
        else
            open.erase(index);
    }
    return parts;
}

}  // namespace qcow2
