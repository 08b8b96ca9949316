// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// All bits of a bitmap are written anew: aside, with another table (H1), or where
// there is no room for that in the clusters that it has.
//
// One thread, inside Disk::restructure().

#pragma once

#include <vector>

#include "core/base/bit_vector.h"
#include "core/format/bitmap_directory.h"
#include "core/format/bitmap_table.h"
#include "core/format/table_entry.h"
#include "core/structure/aside.h"

namespace qcow2 {

// Writes table and data aside, and makes the entry name them. Clusters that are
// all zeros or, where there is no tail, all ones have none in the file.
Result<void> write_bits(Aside &aside, Image &image, const BitVector &bits,
                        BitmapDirectoryEntry &entry);
// The same with all bits alike, for which no bit vector is needed.
Result<void> write_uniform_bits(Aside &aside, Image &image, std::uint64_t disk_size, bool value,
                                BitmapDirectoryEntry &entry);

// Sets all bits of an inconsistent bitmap where they are, durably. table: its own
// (BitmapClusters). no_space: there is no cluster for the last bits, none to be
// taken and none that other bits could do without.
Result<void> set_bits_in_place(Image &image, const BitmapDirectoryEntry &entry,
                               std::vector<BitmapTableEntry> table);

}  // namespace qcow2
