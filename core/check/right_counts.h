// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// RightCounts: what each refcount is to be after a repair: by what the file
// says, by how often the cluster is named, and by what the repair itself has
// moved. One thread.

#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_map>

#include "core/check/repair.h"
#include "core/check/walk.h"

namespace qcow2 {

inline Error refcounts_too_narrow(const Geometry &geometry)
{
    return Error(Errc::unsupported, "refcounts of {} bits are too narrow for what is used",
                 geometry.refcount_bits());
}

class RightCounts {
public:
    // may_lower: all names have been followed. The walk must outlive it.
    RightCounts(ImageWalk &walk, RepairKind kind, bool may_lower)
        : walk_(walk), kind_(kind), may_lower_(may_lower)
    {
    }

    // A name, or several, that the cluster has no more.
    void take_names(std::uint64_t cluster, std::uint64_t times) { gone_[cluster] += times; }
    // A cluster that nothing named is used now.
    void give(std::uint64_t cluster, std::uint64_t times) { given_[cluster] = times; }
    // Those of the old refcount structure, which goes as a whole.
    void take_structure()
    {
        if (!structure_taken_)
            for (const std::uint64_t cluster : walk_.refcount_clusters())
                take_names(cluster, 1);
        structure_taken_ = true;
    }
    // As if nothing had been moved.
    void forget_moves()
    {
        gone_.clear();
        given_.clear();
        structure_taken_ = false;
    }
    // The structure stays as it is: where a block is missing, or is something else, too,
    // refcounts stay what they are.
    void keep_outside_of_sound_blocks() { only_in_sound_blocks_ = true; }
    // Its refcount stays what the file says: bit 63 of its name cannot be changed.
    void keep(std::uint64_t cluster) { kept_.add(cluster, 1, Use::guest); }

    std::uint64_t names(std::uint64_t cluster) const
    {
        if (const auto given = given_.find(cluster); given != given_.end())
            return given->second;
        const std::uint64_t found = walk_.counts().of(cluster).count();
        const auto gone = gone_.find(cluster);
        return gone == gone_.end() ? found : found - std::min(found, gone->second);
    }

    // now: the refcount in the file.
    std::uint64_t of(std::uint64_t cluster, std::uint64_t now) const
    {
        if (const auto given = given_.find(cluster); given != given_.end())
            return given->second;
        if (kept_.of(cluster).count() != 0 || (only_in_sound_blocks_ && !has_sound_block(cluster)))
            return now;
        const std::uint64_t named = names(cluster);
        if (named == 0 && gone_.contains(cluster))
            return 0;
        std::uint64_t count = now;
        if (may_lower_ && named < ReferenceCounts::count_max)  // which stands for more
            count = std::min(count, named);
        return kind_ == RepairKind::all ? std::max(count, named) : count;
    }
    Result<std::uint64_t> of(std::uint64_t cluster)
    {
        return of(cluster, TRY(walk_.refcounts().of(cluster)));
    }

private:
    bool has_sound_block(std::uint64_t cluster) const
    {
        const std::uint64_t index = cluster >> walk_.geometry().refcount_block_bits();
        return walk_.refcounts().has_block(index) &&
               walk_.block_is_sound(HostOffset(walk_.refcounts().blocks()[index]));
    }

    ImageWalk &walk_;
    const RepairKind kind_;
    const bool may_lower_;
    bool structure_taken_ = false;
    bool only_in_sound_blocks_ = false;
    ReferenceCounts kept_;
    std::unordered_map<std::uint64_t, std::uint64_t> gone_;
    std::unordered_map<std::uint64_t, std::uint64_t> given_;
};

}  // namespace qcow2
