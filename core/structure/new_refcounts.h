// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// NewRefcounts: the refcounts of many clusters changed at once (H1). Those
// blocks in which a count changes, and the refcount table, are written anew,
// aside; the header switches to them together with what else changes. The old
// structure counts what the image named before, the new one what it names
// then: also that the old blocks and the old table are free.
//
// One thread, on an image that is settled; after the commit its allocator knows
// the old structure, so the image must be opened anew.

#pragma once

#include <set>
#include <vector>

#include "core/structure/aside.h"
#include "core/structure/count_changes.h"

namespace qcow2 {

// Whether these changes can be: unsupported, if a count would not fit its
// width; corrupt, if one is too low for what is named. Writes nothing.
Result<void> check_counts(Image &image, const CountChanges &changes);

class NewRefcounts {
public:
    // All must outlive it. changes: without the clusters that come from the
    // Aside, which are counted once by themselves, and without the structure.
    NewRefcounts(Image &image, Aside &aside, CountChanges &changes);

    // Writes it. no_space: there is no room for old and new side by side.
    Result<void> prepare();
    // For the commit.
    void apply(Header &header) const;
    // After the commit: what nothing counts any more is punched out (W3).
    void give_back() const;

private:
    Result<void> load_table();
    void find_blocks();
    Result<void> take_missing();
    Result<void> write_block(std::uint64_t index, HostOffset to);
    void note_free(HostCluster cluster);
    std::uint64_t index_of(HostCluster cluster) const
    {
        return cluster.value >> geometry_.refcount_block_bits();
    }

    Image &image_;
    Aside &aside_;
    CountChanges &changes_;
    const Geometry geometry_;

    HostRun old_table_;
    std::vector<HostOffset> table_;   // offsets of blocks, 0: none
    std::set<std::uint64_t> blocks_;  // those that are written anew, by index
    std::vector<HostOffset> taken_;   // for them
    HostRun new_table_;
    std::vector<HostRun> free_;
};

// The commit of a change that alters counts: what it replaces is counted down, the new
// structure is written, and the header names both.
Result<void> commit_with_counts(Image &image, Aside &aside, CountChanges &changes,
                                const ImageHeader::Change &change, const BecomeAlone &become_alone);

// So many clusters, side by side as far as there is room.
Result<std::vector<HostOffset>> take_scattered(Image &image, Aside &aside, std::uint64_t count);

}  // namespace qcow2
