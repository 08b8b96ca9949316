// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A snapshot made, applied or deleted changes three things that have to agree: which L1 tables
// and snapshot records the header names; how often each cluster is named, which is its
// refcount; and bit 63 of every entry of the disk, which says that the count is 1. A disk of a
// terabyte has sixteen million of the latter two, and a crash may come anywhere.
//
// So each operation first counts, in memory: +1 for each name that comes, -1 for each that
// goes (Tree::count_names). If a count would not fit, or is too low for what is named, it ends
// there, with nothing written. Then it does one of two things.
//
// Aside: everything that differs is written anew beside what is there, the refcount blocks and
// the refcount table included (NewRefcounts), and one header sector names all of it. Before
// that write the file is what it was; after it all three are what they are to be.
//
// In place, if there is no room for that. Now the three change one after the other, and
// between any two steps the file must not be worse than leaky (W6):
//
//     make      bits that must go, durably;  counts up;  the header
//     delete    the header;  counts down;  bits that come
//     apply     counts up;  the header;  counts down
//
// A count that is too high leaks; a bit that is clear where it could be set makes the next
// writer copy. The other way round, a count too low or a bit set too early, a cluster would be
// written under a snapshot's feet. Applying needs no bits: after it every cluster of the disk
// is the snapshot's, too, so that all are clear; those in the snapshot's own L2 tables, which
// mean nothing there, are cleared before it.
//
// If the header's commit fails and the old header is known to be there, all steps are taken
// back. If nobody knows which one is there nothing is taken back, and nothing is written any
// more (W5): either may be the one, and what was done suits both.

#include "core/structure/snapshot_operation.h"

#include <unordered_set>

#include "core/base/log.h"
#include "core/base/rare.h"
#include "core/format/findings.h"
#include "core/format/limits.h"
#include "core/structure/new_refcounts.h"

namespace qcow2 {

Result<HostOffset> write_l1(Aside &aside, const std::vector<L1Entry> &l1)
{
    return l1.empty() ? Result<HostOffset>(HostOffset()) : aside.write(encode_entries<L1Entry>(l1));
}

Result<void> SnapshotOperation::run()
{
    if (geometry_.data_file)
        return Error(Errc::unsupported,
                     "an image with an external data file cannot have internal snapshots");
    table_ = TRY(load_snapshots(image_.store(), header()));
    snapshots_ = table_.snapshots;
    TRY(plan());
    {
        CountChanges changes;
        TRY(count(changes));
        TRY(check_counts(image_, changes));
        TRY(before());
        const Result<void> done = change_aside(changes);
        if (done || done.error().code != Errc::no_space)
            return done;
        RARE("a snapshot changes in place for lack of room");
        log_debug("in place: {}", done.error().what);
    }
    if (become_alone_)
        TRY(become_alone_());
    // What was taken aside is room again.
    TRY(image_.allocator().settle());
    CountChanges changes;
    TRY(count(changes));
    return change_in_place(changes);
}

Result<void> SnapshotOperation::load_active()
{
    const Header h = header();
    active_ = TRY(Tree::load(image_, h.l1_table_offset, h.l1_size, "the disk"));
    return {};
}

// No table of the snapshot lies where other metadata is.
Result<Tree> SnapshotOperation::tree_of(const Snapshot &snapshot)
{
    TRY(check_snapshot(snapshot, geometry_));
    Tree tree =
        TRY(Tree::load(image_, snapshot.l1_table_offset, snapshot.l1_size, words_for(snapshot)));
    if (!tree.l1().empty() && tree.l1_clusters().first < active_->l1_clusters().end() &&
        active_->l1_clusters().first < tree.l1_clusters().end())
        return finding(Finding::tables_overlap, "{}, L1 table at {:#x}: it is the disk's",
                       words_for(snapshot), snapshot.l1_table_offset.value);
    std::unordered_set<HostOffset> shared;
    for (const L1Entry &l1 : active_->l1())
        shared.insert(l1.l2_table());
    for (const L1Entry &l1 : tree.l1())
        if (l1.present() && !shared.contains(l1.l2_table()) &&
            image_.metadata().overlaps_own({geometry_.cluster_of(l1.l2_table()), 1}))
            return finding(Finding::tables_overlap, "{}, L2 table at {:#x}", words_for(snapshot),
                           l1.l2_table().value);
    return tree;
}

Result<HostOffset> SnapshotOperation::write_snapshots(Aside &aside) const
{
    return snapshots_.empty()
               ? Result<HostOffset>(HostOffset())
               : aside.write(encode_snapshot_table(snapshots_)).in("new snapshot table");
}

void SnapshotOperation::name_snapshots(Header &header, HostOffset table) const
{
    header.nb_snapshots = static_cast<std::uint32_t>(snapshots_.size());
    header.snapshots_offset = table;
}

Result<HostOffset> SnapshotOperation::move_l1(Aside &aside, const std::vector<L1Entry> &l1) const
{
    if (l1 == active_->l1())
        return header().l1_table_offset;
    const HostOffset place = TRY(write_l1(aside, l1).in("new L1 table"));
    aside.replace(active_->l1_clusters());
    return place;
}

}  // namespace qcow2
