// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ClusterSet: a set of host clusters, small where they are few and where they
// are many. It is kept in pages of 65536 clusters, each a sorted list of 16-bit
// numbers, or bits once these are smaller. One thread.

#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/base/bit_vector.h"
#include "core/format/units.h"

namespace qcow2 {

class ClusterSet {
public:
    // False if one of them was in the set already.
    bool add(HostRun run);
    void remove(HostRun run);
    bool overlaps(HostRun run) const;
    bool empty() const { return pages_.empty(); }

private:
    static constexpr std::uint64_t page_clusters = 65536;

    class Page {
    public:
        // Ranges inside the page.
        bool add(Range range);
        void remove(Range range);
        bool overlaps(Range range) const;
        bool empty() const { return few_.empty() && (many_.size() == 0 || many_.none()); }

    private:
        using Few = std::vector<std::uint16_t>;
        Few::const_iterator at(std::uint64_t number) const;
        void turn_into_bits();

        // As many as take the room of the bits.
        static constexpr std::uint64_t few_max = page_clusters / 16;

        Few few_;         // sorted
        BitVector many_;  // in their place, if it has a size
    };

    template <class Visit>
    static void for_each_page(HostRun run, Visit visit);

    std::unordered_map<std::uint64_t, Page> pages_;  // none is empty
};

}  // namespace qcow2
