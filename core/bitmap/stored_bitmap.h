// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// StoredBitmap: the table and the data clusters of one bitmap in the file.
//
// While the bitmap is marked in_use its data may be changed in place: nobody
// reads them. Whoever calls add() has made sure of that (B1), and calls it
// from one thread at a time.

#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "core/bitmap/touched_bits.h"
#include "core/format/bitmap_directory.h"
#include "core/format/bitmap_table.h"
#include "core/format/table_entry.h"
#include "core/image/image.h"

namespace qcow2 {

class StoredBitmap {
public:
    StoredBitmap(Image &image, const BitmapDirectoryEntry &entry);

    // Reads the table and checks it and its clusters, which it notes as
    // metadata. The finding names the place.
    Result<void> open();

    const BitmapSize &size() const { return size_; }

    // Makes sure that the last data cluster, whose tail must be zero and which
    // can therefore not become an all-ones entry, has a cluster to go to (B7).
    void reserve_last();
    void give_back_reserved();

    // Sets these bits in the file too; not durable until the store is flushed.
    // Where there is no room for a data cluster its table entry becomes all
    // ones: a superset (B7).
    Result<void> add(const TouchedBits &touched);

private:
    Result<void> add_page(std::uint64_t page, Bytes bits);
    Result<HostRun> take_zeroed();
    Result<void> make_cluster(std::uint64_t entry);
    Result<void> write_table();
    bool has_tail(std::uint64_t entry) const;
    void mask_tail(std::uint64_t first_byte, MutableBytes bytes) const;

    Image &image_;
    const Geometry geometry_;
    const HostOffset table_offset_;
    const std::uint64_t table_size_;  // entries, as the directory says
    const BitmapSize size_;           // as the disk needs

    std::vector<BitmapTableEntry> table_;
    std::set<std::uint64_t> table_dirty_;  // sectors
    HostRun reserved_;                     // for the last data cluster; count 0 or 1
};

}  // namespace qcow2
