// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Qcow2File: the bytes of a qcow2 file that nobody has stored: what a backup of a frozen
// disk would write into one. Version 3, clusters of 64 KiB, without a leak, in this order:
//
//   header                the backing file's name and format, the bitmaps extension
//   refcount table        and blocks: each cluster of the file is counted once
//   L1 table
//   L2 tables             those that say something
//   bitmap directory
//   of each bitmap        its table, and its data where a bit is set
//   data                  whole clusters in the order of the disk
//
// A full file has each cluster that does not read as zeros. A *dirty* one has what one of
// the bitmaps says: each cluster with a dirty granule in it, zeros as zero clusters; the
// rest is left to the backing file. The bitmaps are disabled and valid.
//
// make() asks once what there is; then size and layout never change. All that it keeps is
// FileClusters (two bits for each cluster where data, zeros and nothing are mixed), and any
// part of the file is made from that and from the source: so a read costs what it reads.
//
// Any thread after make(); the source is told anew for each read, and always shows the same.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/backup/backup_source.h"
#include "core/backup/file_clusters.h"
#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/format/bitmap_directory.h"
#include "core/format/header.h"

namespace qcow2 {

class Qcow2File {
public:
    struct Wish {
        // A dirty file, of the bitmap with this index; nullopt: a full one.
        std::optional<std::size_t> dirty;
        // What the header names; empty: nothing. 1023 bytes at most.
        std::string backing_file;
        std::string backing_format;
    };
    static constexpr std::uint64_t cluster_size = 64 << 10;

    // invalid, unsupported: no such file can have such a disk or bitmap.
    static Result<std::unique_ptr<Qcow2File>> make(BackupSource &source, const Wish &wish);

    std::uint64_t size() const { return size_; }  // bytes
    // The range lies inside size(): else invalid. source: the one that it was made of.
    Result<void> read(BackupSource &source, std::uint64_t offset, MutableBytes bytes) const;

private:
    // Clusters of the file, side by side.
    struct Part {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
        std::uint64_t end() const { return first + count; }
    };
    // In the order of the file. Behind these two of each bitmap, its table and its data; the
    // last one has the data.
    enum PartName { cluster_0, refcount_table, refcount_blocks, l1, l2, directory, first_bitmap };
    const Part &data() const { return parts_.back(); }
    // Of a bitmap: which pieces of it, as long as a cluster of data, have bits.
    using Pieces = std::vector<std::uint64_t>;

    explicit Qcow2File(std::uint64_t disk_size);

    Result<void> find_clusters(BackupSource &source, const Wish &wish);
    Result<void> find_clusters(BackupSource &source, Range bytes, FileClusters::Kind zeros);
    Result<void> find_dirty_clusters(BackupSource &source, const BackupBitmap &bitmap);
    Result<void> find_pieces(const std::vector<BackupBitmap> &bitmaps);
    void place(const std::vector<BackupBitmap> &bitmaps);
    Result<void> make_header(const std::vector<BackupBitmap> &bitmaps, const Wish &wish);
    HostOffset offset_of(const Part &part, std::uint64_t n = 0) const;

    Result<void> read_part(BackupSource &source, std::size_t part, std::uint64_t offset,
                           MutableBytes bytes) const;
    void read_bitmap_table(std::size_t bitmap, std::uint64_t offset, MutableBytes bytes) const;
    void read_bits(BackupSource &source, std::size_t bitmap, std::uint64_t offset,
                   MutableBytes bytes) const;
    void read_l2(std::uint64_t offset, MutableBytes bytes) const;
    Result<void> read_data(BackupSource &source, std::uint64_t offset, MutableBytes bytes) const;

    const std::uint64_t disk_size_;
    Header header_;
    FileClusters clusters_;
    std::uint64_t size_ = 0;
    std::vector<Part> parts_;
    std::vector<Pieces> pieces_;  // of each bitmap
    Buffer header_bytes_;         // cluster 0
    Buffer directory_bytes_;      // without padding
};

}  // namespace qcow2
