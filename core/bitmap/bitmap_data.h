// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The table and the data of one bitmap as a whole, read from the file.
// (StoredBitmap is for what changes while the disk is served,
// structure/new_bitmap_data.h for writing all bits anew.)
//
// Any thread, while nobody else writes to the bitmap.

#pragma once

#include <vector>

#include "core/base/bit_vector.h"
#include "core/bitmap/directory.h"
#include "core/format/bitmap_table.h"
#include "core/format/table_entry.h"
#include "core/image/cluster_set.h"

namespace qcow2 {

// That it has for the disk as large as it is.
BitmapSize size_of(const Image &image, const BitmapDirectoryEntry &entry);

// Checked entry by entry; the finding names the place. Of an inconsistent
// bitmap the table may have another size than the disk needs.
Result<std::vector<BitmapTableEntry>> load_bitmap_table(Image &image,
                                                        const BitmapDirectoryEntry &entry);
// What it names: memory for what is there, and not for the size of the table.
Result<std::vector<HostRun>> load_bitmap_clusters(Image &image, const BitmapDirectoryEntry &entry);

// The bits of a bitmap that is sound. Ones behind the last bit are dropped.
Result<BitVector> load_bits(Image &image, const BitmapDirectoryEntry &entry);
// How many are set, and how much of the disk they stand for.
struct Dirty {
    std::uint64_t granules = 0;
    std::uint64_t bytes = 0;
};
// read: clusters of bitmaps that were read before are not read again, but a finding.
Result<Dirty> how_dirty(Image &image, const BitmapDirectoryEntry &entry,
                        ClusterSet *read = nullptr);

}  // namespace qcow2
