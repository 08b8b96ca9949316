// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ImageWalk: follows every name in an image (header, refcount structure, L1 and
// L2 tables of the active state and of the snapshots, snapshot table, bitmaps),
// counts how often each cluster is named, and notes what is wrong with the
// names. What check() judges and what repair() puts right both start here.
//
// Nothing is written. One thread; the store must not change meanwhile.

#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/check/finding_list.h"
#include "core/check/reference_counts.h"
#include "core/check/stored_refcounts.h"
#include "core/format/bitmap_directory.h"
#include "core/format/extensions.h"
#include "core/format/limits.h"

namespace qcow2 {

class ImageWalk {
public:
    // An L2 table: how often it is named, and how often by the active L1 table.
    struct Named {
        std::uint64_t times = 0;
        std::uint64_t active = 0;
    };

    explicit ImageWalk(ByteStore &store)
        // In whole sectors: what a reader of sectors sees.
        : store_(store), file_size_(align_up(store.size(), limits::sector))
    {
    }

    // Once, before all else. An error: the header (or a table it names) is such
    // that nothing can be followed, or the store failed to read.
    Result<void> run();

    const Header &header() const { return area_.header; }
    const Geometry &geometry() const { return geometry_; }
    std::uint64_t file_clusters() const { return geometry_.clusters_for(file_size_); }
    const ReferenceCounts &counts() const { return counts_; }
    const std::map<HostOffset, Named> &l2_tables() const { return l2_tables_; }
    StoredRefcounts &refcounts() { return refcounts_; }
    FindingList &findings() { return findings_; }

    // Each name that the refcount structure has: of the table's clusters and of
    // the blocks, as cluster numbers.
    const std::vector<std::uint64_t> &refcount_clusters() const { return refcount_clusters_; }
    // Clusters of the refcount table that were followed; 0 if they were not.
    std::uint64_t table_clusters() const { return table_clusters_; }

private:
    struct L2Place {
        HostOffset table;
        std::uint64_t index;
        std::uint64_t raw;
        std::uint64_t second;  // of an extended entry

        std::string words() const;
    };

    bool has_data_file() const { return geometry_.data_file; }

    // Counts names for each cluster of a range. False, and a finding, if the
    // range lies outside the file. It may end inside the cluster that the file
    // ends in, or (as with QEMU) a little into the next.
    template <class Words>
    bool count(HostOffset offset, std::uint64_t bytes, Use use, Finding past_end, Words words,
               std::uint64_t times = 1)
    {
        if (bytes == 0)
            return true;
        std::uint64_t end;
        if (__builtin_add_overflow(offset.value, bytes, &end) ||
            (end > file_size_ && end - file_size_ >= geometry_.cluster_size())) {
            findings_.add_lazily(past_end, words);
            return false;
        }
        const std::uint64_t last = (end - 1) >> geometry_.cluster_bits;
        for (std::uint64_t c = offset.value >> geometry_.cluster_bits; c <= last; ++c)
            counts_.add(c, times, use);
        return true;
    }

    Result<void> load_header();
    Result<void> walk_refcount_structure();
    Result<void> walk_snapshots();
    Result<void> walk_l1(HostOffset offset, std::uint32_t l1_size, bool active,
                         const std::string &name);
    Result<void> walk_l2_tables();
    Result<void> walk_l2(HostOffset table, const Named &named);
    Result<void> check_l2_entry(const L2Place &entry, const Named &named);
    void check_compressed(const L2Place &entry, std::uint64_t times);
    Result<void> check_copied(HostOffset cluster, bool copied, std::string_view what,
                              std::uint64_t index);
    Result<void> walk_bitmaps();
    Result<void> walk_bitmap(const BitmapDirectoryEntry &entry);
    void check_padding(Bytes directory, const std::vector<BitmapDirectoryEntry> &entries);

    ByteStore &store_;
    const std::uint64_t file_size_;  // bytes
    HeaderArea area_;
    Geometry geometry_;
    FindingList findings_;
    ReferenceCounts counts_;
    StoredRefcounts refcounts_;
    std::vector<std::uint64_t> refcount_clusters_;
    std::uint64_t table_clusters_ = 0;
    std::map<HostOffset, Named> l2_tables_;  // each once

    Buffer l1_buffer_;
    Buffer l2_buffer_;
};

}  // namespace qcow2
