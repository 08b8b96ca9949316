// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Rebuild: refcount table and blocks anew, and with them the tables of the
// active tree whose bit 63 changes: all of it aside, in clusters that nothing
// names, and taken over by one write of the header's sector (H1). One thread.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>

#include "core/check/active_tree.h"

namespace qcow2 {

class Rebuild {
public:
    // All must outlive it.
    Rebuild(ByteStore &store, ImageWalk &walk, RightCounts &counts, ActiveTree &tree)
        : store_(store), walk_(walk), counts_(counts), tree_(tree)
    {
    }

    // Decides what is to be moved; that is told to the counts, and the tree has
    // looked for its wrong bits again. no_space: tables lie one over the other, so
    // that they must stay. unsupported: counts would not fit their width.
    Result<void> plan();
    // Then: where all of it goes. Makes the store long enough, if it may.
    // no_space: there is no room.
    Result<void> place();

    // Writes all of it and switches; durable.
    Result<void> write();

private:
    const Geometry &geometry() const { return walk_.geometry(); }
    HostOffset offset_of(std::uint64_t cluster) const
    {
        return geometry().offset_of(HostCluster(cluster));
    }

    // What a run of new clusters holds, one after the other.
    struct Layout {
        std::uint64_t first = 0;
        std::uint64_t l2 = 0;  // each a number of clusters
        std::uint64_t l1 = 0;
        std::uint64_t blocks = 0;
        std::uint64_t table = 0;

        std::uint64_t clusters() const { return l2 + l1 + blocks + table; }
        std::uint64_t end() const { return first + clusters(); }
        std::uint64_t l1_at() const { return first + l2; }
        std::uint64_t blocks_at() const { return l1_at() + l1; }
        std::uint64_t table_at() const { return blocks_at() + blocks; }
    };
    Layout layout_at(std::uint64_t first) const;
    Result<void> find_blocks();
    Result<void> make_room_behind();
    Result<std::optional<Layout>> place_inside();
    Result<void> write_tree();
    Result<void> write_refcounts();

    ByteStore &store_;
    ImageWalk &walk_;
    RightCounts &counts_;
    ActiveTree &tree_;

    bool move_l1_ = false;
    std::set<std::uint64_t> blocks_;  // those that old clusters need, by index
    Layout layout_;
    std::map<HostOffset, HostOffset> moved_;  // L2 tables: from where to where
};

}  // namespace qcow2
