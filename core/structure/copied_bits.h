// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// CopiedBits: bit 63 of the disk's L1 and L2 entries, put right for the refcounts that
// a structural change brings. The bit says that the count is exactly 1, so that the next
// writer may write in place; and it is never set on disk while the count is another (W6).
//
// One thread, on an image that is settled.

#pragma once

#include <span>
#include <unordered_set>
#include <vector>

#include "core/format/snapshot_table.h"
#include "core/structure/count_reader.h"
#include "core/structure/new_refcounts.h"
#include "core/structure/tree.h"

namespace qcow2 {

class CopiedBits {
public:
    // Both must outlive it. active: the disk's tree.
    CopiedBits(Image &image, const Tree &active)
        : image_(image), active_(active), geometry_(image.geometry()), counts_(image)
    {
    }

    // The L1 table as it is to be, with the L2 tables whose bits change written aside.
    // changes: of the counts; the tables that come and go are added. names_more: of the new
    // tables, besides the disk's. others: the snapshots that stay in the file.
    Result<std::vector<L1Entry>> move_wrong_tables(Aside &aside, CountChanges &changes,
                                                   std::int64_t names_more,
                                                   std::span<const Snapshot> others);

    // In the tables where they are, durably. L1 entries go by the same rule.
    Result<void> put_right_in_place(const CountChanges &changes);
    // After a failure of that, or behind it: the counts are what they were. What the
    // mapping has in memory is what the file says, or nothing is written any more.
    void undo();

private:
    struct Righted {
        bool set = false, cleared = false;
        bool any() const { return set || cleared; }
    };
    Result<std::uint64_t> count_to_come(HostOffset host, const CountChanges &changes);
    Result<bool> wanted(HostOffset host, const CountChanges &changes);
    Result<Righted> put_right(L2Table &table, const CountChanges &changes);
    // What snapshots name of the disk's tables.
    struct Shared {
        std::unordered_set<HostOffset> tables;
        bool perhaps_any = false;  // a snapshot cannot be followed
    };
    Result<Shared> shared_with(std::span<const Snapshot> others);
    Result<bool> is_shared(HostOffset table, const Shared &shared, const CountChanges &changes,
                           std::int64_t names_more);
    Result<std::vector<std::size_t>> wrong_tables(const CountChanges &changes,
                                                  std::int64_t names_more,
                                                  std::span<const Snapshot> others);

    Image &image_;
    const Tree &active_;
    const Geometry geometry_;
    CountReader counts_;  // while the tables are gone through, which changes none
};

// Bits 63 under an inactive L1 table mean nothing, and may be any; before it becomes
// the active one they go. Durably, where they are.
Result<void> clear_copied_in_place(Image &image, const Tree &snapshot);

}  // namespace qcow2
