// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// SnapshotOperation: what making, applying and deleting a snapshot have in common (see
// snapshot_change.h). Each plans, counts, and then changes the image aside or, where there is
// no room for that, in place.
//
// One thread, on an image that is settled, and that nobody else changes.

#pragma once

#include <optional>
#include <vector>

#include "core/image/snapshots.h"
#include "core/structure/aside.h"
#include "core/structure/count_changes.h"
#include "core/structure/tree.h"

namespace qcow2 {

class SnapshotOperation {
public:
    virtual ~SnapshotOperation() = default;

    Result<void> run();

protected:
    SnapshotOperation(Image &image, const BecomeAlone &become_alone)
        : image_(image), become_alone_(become_alone), geometry_(image.geometry())
    {
    }

    // Finds out what is to be. Loads active_.
    virtual Result<void> plan() = 0;
    // Adds all names that come and go.
    virtual Result<void> count(CountChanges &changes) const = 0;
    // Once the counts are known to be possible, before anything is prepared.
    virtual Result<void> before() { return {}; }
    // Both with what count() has found. no_space of the first one: then the second is tried.
    virtual Result<void> change_aside(CountChanges &changes) = 0;
    virtual Result<void> change_in_place(const CountChanges &changes) = 0;

    Header header() const { return image_.header().header(); }
    HostRun old_snapshot_table() const
    {
        return {geometry_.cluster_of(header().snapshots_offset),
                geometry_.clusters_for(table_.encoded_size)};
    }
    Result<void> load_active();
    Result<Tree> tree_of(const Snapshot &snapshot);
    Result<HostOffset> write_snapshots(Aside &aside) const;
    void name_snapshots(Header &header, HostOffset table) const;
    // The place of the disk's L1 table: written aside if it is to say something else.
    Result<HostOffset> move_l1(Aside &aside, const std::vector<L1Entry> &l1) const;

    Image &image_;
    const BecomeAlone &become_alone_;
    const Geometry geometry_;
    SnapshotTable table_;              // as it is
    std::vector<Snapshot> snapshots_;  // as they are to be, of those operations that change them
    std::optional<Tree> active_;       // the disk's
};

// HostOffset(0) for a table without entries.
Result<HostOffset> write_l1(Aside &aside, const std::vector<L1Entry> &l1);

}  // namespace qcow2
