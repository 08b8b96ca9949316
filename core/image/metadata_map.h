// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// MetadataMap: which host clusters hold metadata. Images lie: before a guest's
// bytes are written through a pointer from the file, before a cluster is freed,
// and before one with refcount 0 is taken, this map is asked.
//
// It knows what was named when the image was opened (header, L1, refcount
// structures, active L2 tables, snapshot table, L1 and L2 tables of snapshots,
// bitmap directory, tables and data) and what the engine made since.
//
// The L2 tables of snapshots may have several names: each other's, and that of
// the active tree. They are kept apart and stay, whatever the active tree lets
// go of: snapshots change only when the image is opened anew.
//
// Any thread.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <shared_mutex>

#include "core/image/cluster_set.h"

namespace qcow2 {

class MetadataMap {
public:
    MetadataMap();

    // Adds clusters of one owner. False if one of them was in the map already.
    bool add(HostRun run);
    // An L2 table of the active tree. False if something other than a snapshot
    // has that cluster.
    bool add_l2_table(HostCluster cluster);
    // An L2 table of a snapshot; before those of the active tree. False if
    // something other has that cluster.
    bool add_snapshot_l2_table(HostCluster cluster);
    // What a snapshot names stays.
    void remove(HostRun run);

    bool overlaps(HostRun run) const;
    // Without L2 tables that only snapshots name.
    bool overlaps_own(HostRun run) const;

private:
    // A bit for all clusters whose numbers are alike modulo filter_bits; never
    // cleared. Where there is none there is no metadata: so most requests take
    // no lock. A caller that asks while a cluster is being added may see either, with
    // the lock as without it.
    static constexpr std::uint64_t filter_bits = 1 << 20;
    static constexpr std::uint64_t word_bits = 64;
    static constexpr std::uint64_t filter_words = filter_bits / word_bits;
    void note(HostRun run);
    bool may_overlap(HostRun run) const;

    // Zeroed by the kernel, page by page as they are touched: an image that is opened, and each
    // file behind it, pays for those clusters that have metadata, not for 128 KiB.
    struct Free {
        void operator()(std::uint64_t *words) const { std::free(words); }
    };
    std::unique_ptr<std::uint64_t[], Free> filter_;

    // Not a Mutex: it is the innermost of all, and many may read.
    mutable std::shared_mutex mutex_;
    ClusterSet own_;
    ClusterSet snapshots_;
};

}  // namespace qcow2
