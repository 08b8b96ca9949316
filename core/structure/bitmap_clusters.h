// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// BitmapClusters: whose clusters are whose, among the bitmaps of an image and its
// tables. Asked before clusters of bitmaps are written to or released.
//
// One thread, inside Disk::restructure().

#pragma once

#include <vector>

#include "core/base/log.h"
#include "core/bitmap/directory.h"
#include "core/format/table_entry.h"
#include "core/structure/aside.h"

namespace qcow2 {

// A bitmap owns a cluster if nothing else names it, no
// other bitmap and no table of the image (L1, L2, refcounts, snapshots; of the
// guest's clusters nothing is known without a walk), and its refcount is 1.
class BitmapClusters {
public:
    static Result<BitmapClusters> of(Image &image, const BitmapDirectory &directory);

    // Lets the clusters of this bitmap go with the commit, if it owns them all.
    // Else they leak, and the log says so.
    void release(Aside &aside, const BitmapDirectoryEntry &entry);

    // Whether nothing else has the clusters of the directory.
    Result<bool> own_directory() const { return owns({directory_}); }

    // Whether its table can be followed, and leads to nothing that others have.
    Result<void> check(const BitmapDirectoryEntry &entry) const;

    // Its table, if it has the size that the disk needs and all clusters are its
    // own: it may be written to. Else no_space: what needs room must do without.
    Result<std::vector<BitmapTableEntry>> own_table(const BitmapDirectoryEntry &entry) const;

private:
    BitmapClusters(Image &image, HostRun directory) : image_(image), directory_(directory) {}
    Result<std::vector<HostRun>> runs_of(const BitmapDirectoryEntry &entry) const;
    Result<bool> owns(const std::vector<HostRun> &runs) const;
    Result<void> check_table(const BitmapDirectoryEntry &entry) const;
    void count(HostRun run, std::uint64_t times);
    void several_of(HostRun run);
    void count_other(HostRun run);
    Result<void> count_table(HostOffset offset, std::uint64_t entries);
    Result<void> count_tables();

    Image &image_;
    const HostRun directory_;
    ClusterSet used_;     // by the directory and by bitmaps
    ClusterSet several_;  // of those: that have another name, too
    FewWarnings leaked_;
};

}  // namespace qcow2
