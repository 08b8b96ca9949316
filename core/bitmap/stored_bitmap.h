// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// StoredBitmap: the table and the data clusters of one bitmap in the file.
//
// Data are changed in place, by whole sectors that are right before and after
// (B3), or while the bitmap is marked in_use (B1). Where something is to be written is said
// to others, because many writes may share one flush.
//
// load() may be called from any thread, all else by the holder of the turn
// (Arming).

#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/sparse_words.h"
#include "core/base/table_reader.h"
#include "core/bitmap/dirty_bits.h"
#include "core/format/bitmap_directory.h"
#include "core/format/bitmap_table.h"
#include "core/format/table_entry.h"
#include "core/image/image.h"

namespace qcow2 {

// A ByteStore::Part that has its bytes itself.
struct SmallWrite {
    std::uint64_t offset;  // in the store
    Buffer bytes;
};

class StoredBitmap {
public:
    StoredBitmap(Image &image, const BitmapDirectoryEntry &entry);

    // Reads the table and checks it and its clusters, which it notes as
    // metadata. The finding names the place. buffer: one for all tables.
    Result<void> open(TableBuffer &buffer) { return open(buffer, true); }
    // The same where its clusters are noted as metadata already.
    Result<void> open_noted(TableBuffer &buffer) { return open(buffer, false); }

    const BitmapSize &size() const { return size_; }

    // Makes the last data cluster, whose tail must be zero, so that it cannot
    // become an all-ones entry (B7); named by the table in memory. no_space.
    Result<void> make_last();
    // The mark of a bitmap that is given up: its table says that the last bits
    // are all ones, which nobody would write where there is a tail. Only while
    // it is in_use.
    void mark_given_up() EXCLUDES(table_mutex_);

    // The bytes of a page of the bitmap, with a tail of zeros. An entry that has
    // become all ones is not believed before table_written(): the file may not
    // have it, and what is read here is called durable (B2).
    Result<void> load(std::uint64_t page, MutableBytes bytes) EXCLUDES(table_mutex_);

    // Whether the bits of this page have clusters.
    bool has_clusters(std::uint64_t page) const EXCLUDES(table_mutex_);

    // The first page, from this one on, that may have a bit in the file; past the last one
    // if there is none.
    std::uint64_t next_stored(std::uint64_t page) const EXCLUDES(table_mutex_);

    // What brings the sectors of the page into the file. Clusters that are not
    // there yet are made, and named by the table in memory: these parts
    // must be durable before the table is; their bytes are the image's. Where there is no
    // room the table entry becomes all ones: a superset (B7). no_space: not even that.
    Result<std::vector<ByteStore::Part>> place(const PageImage &image) EXCLUDES(table_mutex_);

    // The sectors of the table that name new clusters: not known to be durable
    // until table_written().
    bool table_changed() const { return !table_dirty_.empty(); }
    std::vector<SmallWrite> table_writes() const EXCLUDES(table_mutex_);
    void table_written() EXCLUDES(table_mutex_);

private:
    Result<void> open(TableBuffer &buffer, bool notes);
    BitmapTableEntry entry_of(std::uint64_t entry) const EXCLUDES(table_mutex_);
    BitmapTableEntry durable_entry_of(std::uint64_t entry) const EXCLUDES(table_mutex_);
    void set_entry(std::uint64_t entry, BitmapTableEntry value) EXCLUDES(table_mutex_);
    Result<HostRun> take_zeroed();
    Result<void> make_cluster(std::uint64_t entry);
    bool has_tail(std::uint64_t entry) const;
    void mask_tail(std::uint64_t first_byte, MutableBytes bytes) const;

    Image &image_;
    const Geometry geometry_;
    const HostOffset table_offset_;
    const std::uint64_t table_size_;  // entries, as the directory says
    const BitmapSize size_;           // as the disk needs

    mutable Mutex table_mutex_{Rank::bitmaps};
    SparseWords table_ GUARDED_BY(table_mutex_);  // raw entries, checked
    // Entries that are all ones here, and perhaps still 0 in the file.
    std::set<std::uint64_t> all_ones_unsure_ GUARDED_BY(table_mutex_);
    std::set<std::uint64_t> table_dirty_;  // sectors
};

}  // namespace qcow2
