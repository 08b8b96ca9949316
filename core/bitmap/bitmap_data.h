// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The table and the data of one bitmap as a whole: reading all bits, writing
// all bits anew aside, letting the old clusters go. (StoredBitmap is for what
// changes while the disk is served.)
//
// One thread, inside Disk::restructure(); reading also before serving.

#pragma once

#include <unordered_map>
#include <vector>

#include "core/base/bit_vector.h"
#include "core/bitmap/directory.h"
#include "core/format/bitmap_table.h"
#include "core/format/table_entry.h"
#include "core/image/aside.h"

namespace qcow2 {

// Checked entry by entry; the finding names the place. Of an inconsistent
// bitmap the table may have another size than the disk needs.
Result<std::vector<BitmapTableEntry>> load_bitmap_table(Image &image, const BitmapDirectoryEntry &entry);

// The bits of a bitmap that is sound. Ones behind the last bit are dropped.
Result<BitVector> load_bits(Image &image, const BitmapDirectoryEntry &entry);
// How many are set, and how much of the disk they stand for.
struct Dirty {
    std::uint64_t granules = 0;
    std::uint64_t bytes = 0;
};
Result<Dirty> how_dirty(Image &image, const BitmapDirectoryEntry &entry);

// Writes table and data aside, and makes the entry name them. Clusters that are
// all zeros or, where there is no tail, all ones have none in the file.
Result<void> write_bits(Aside &aside, Image &image, const BitVector &bits, BitmapDirectoryEntry &entry);
// The same with all bits alike, for which no bit vector is needed.
Result<void> write_uniform_bits(Aside &aside, Image &image, std::uint64_t disk_size, bool value,
                                BitmapDirectoryEntry &entry);

// Sets all bits of an inconsistent bitmap where they are, durably. table: its own
// (BitmapClusters). no_space: there is no cluster for the last bits, none to be
// taken and none that other bits could do without.
Result<void> set_bits_in_place(Image &image, const BitmapDirectoryEntry &entry, std::vector<BitmapTableEntry> table);

// Whose clusters are whose. A bitmap owns a cluster if nothing else names it, no
// other bitmap and no table of the image (L1, L2, refcounts, snapshots; of the
// guest's clusters nothing is known without a walk), and its refcount is 1.
class BitmapClusters {
public:
    static Result<BitmapClusters> of(Image &image, const BitmapDirectory &directory);

    // Lets the clusters of this bitmap go with the commit, if it owns them all.
    // Else they leak, and the log says so.
    void release(Aside &aside, const BitmapDirectoryEntry &entry) const;

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
    void count_other(HostRun run);
    Result<void> count_table(HostOffset offset, std::uint64_t entries);
    Result<void> count_tables();

    Image &image_;
    const HostRun directory_;
    // By the directory and by bitmaps, and of those by others.
    std::unordered_map<HostCluster, unsigned> uses_;
};

}  // namespace qcow2
