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

namespace qcow2 {

// Checked entry by entry; the finding names the place. Of an inconsistent
// bitmap the table may have another size than the disk needs.
Result<std::vector<BitmapTableEntry>> load_bitmap_table(Image &image, const BitmapDirectoryEntry &entry);

// The bits of a bitmap that is sound. Ones behind the last bit are dropped.
Result<BitVector> load_bits(Image &image, const BitmapDirectoryEntry &entry);
// How much of the disk they stand for.
Result<std::uint64_t> dirty_bytes(Image &image, const BitmapDirectoryEntry &entry);

// Writes table and data aside, and makes the entry name them. Clusters that are
// all zeros or, where there is no tail, all ones have none in the file.
Result<void> write_bits(Aside &aside, Image &image, const BitVector &bits, BitmapDirectoryEntry &entry);
// The same with all bits alike, for which no bit vector is needed.
Result<void> write_uniform_bits(Aside &aside, Image &image, std::uint64_t disk_size, bool value,
                                BitmapDirectoryEntry &entry);

// Whose clusters are whose, among the tables of an image.
class BitmapClusters {
public:
    static Result<BitmapClusters> of(Image &image, const BitmapDirectory &directory);

    // Lets the clusters of this bitmap go with the commit. What cannot be
    // trusted (a table that is not one, or that shares a cluster with another
    // structure) leaks, and the log says so.
    void release(Aside &aside, const BitmapDirectoryEntry &entry) const;

private:
    explicit BitmapClusters(Image &image) : image_(image) {}
    Result<std::vector<HostRun>> runs_of(const BitmapDirectoryEntry &entry) const;
    void count(HostRun run);

    Image &image_;
    std::unordered_map<HostCluster, unsigned> uses_;
};

}  // namespace qcow2
