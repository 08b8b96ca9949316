// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ImageWalk: follows every name in an image (header, refcount structure, L1 and
// L2 tables of the active state and of the snapshots, snapshot table, bitmaps),
// counts how often each cluster is named, and notes what is wrong with the
// names. What check() judges and what repair() puts right both start here.
//
// A name that leads behind the end of the file, as it does where a file was cut,
// is a finding, and counts for no cluster. Where such words stand is kept for who
// puts them out of reach before the file grows (lost_names.h).
//
// Nothing is written. One thread; the store must not change meanwhile.

#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/table_reader.h"
#include "core/check/finding_list.h"
#include "core/check/reference_counts.h"
#include "core/check/stored_refcounts.h"
#include "core/format/bitmap_directory.h"
#include "core/format/cluster_mapping.h"
#include "core/format/extensions.h"
#include "core/format/limits.h"

namespace qcow2 {

class ImageWalk {
public:
    // An L2 table: how often it is named, and how often by the active L1 table.
    struct Named {
        std::uint64_t times = 0;
        std::uint64_t active = 0;
        std::uint64_t l1_index = 0;  // of the first name
        bool bad_entries = false;    // besides wrong bits 63
    };

    explicit ImageWalk(ByteStore &store)
        // In whole sectors: what a reader of sectors sees.
        : store_(store), file_size_(align_up(store.size(), limits::sector))
    {
    }

    // Words that lead behind the end of the file and are not out of reach yet.
    struct Lost {
        std::uint64_t count = 0;
        std::string first;               // in words
        std::set<HostOffset> l2_tables;  // with entries that do
        std::vector<HostOffset> words;   // all others, but those
        // Why one of them cannot be put out of reach, in words; empty if all can. The file
        // must not grow then. Such stand in none of the above.
        std::string stays;

        bool can_be_put_away() const { return !l2_tables.empty() || !words.empty(); }
    };

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
    const Lost &lost() const { return lost_; }
    bool is_lost_l2_entry(std::uint64_t raw) const;

    // Whether a range lies inside the file. It begins there, and may end inside the
    // cluster that the file ends in, or (as with QEMU) a little into the next.
    bool is_inside(HostOffset offset, std::uint64_t bytes) const
    {
        std::uint64_t end;
        return offset.value < file_size_ && !__builtin_add_overflow(offset.value, bytes, &end) &&
               (end <= file_size_ || end - file_size_ < geometry_.cluster_size());
    }
    // Whether what is named there has these clusters for itself, so that writing it
    // changes nothing else.
    bool is_apart(HostOffset offset, std::uint64_t bytes) const;
    // Whether it is a refcount block and nothing else: only such a one is written as one.
    bool block_is_sound(HostOffset block) const
    {
        const ReferenceCounts::Word word = counts_.of(block.value >> geometry_.cluster_bits);
        return word.is(Use::sole) && word.well_used();
    }
    // A table has to be there as a whole.
    bool is_there(HostOffset table, std::uint64_t bytes) const
    {
        return bytes == 0 || fits(table.value, bytes, store_.size());
    }

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

    // Where a name stands.
    struct Place {
        enum class Kind {
            header,     // or the area behind it
            refcounts,  // a word that goes when refcounts are made anew
            word,       // any other
            l2_entry,
            compressed,  // an L2 entry, too
        } kind;
        HostOffset offset;  // of the word, or of the L2 table
    };

    // Counts names for each cluster of a range. False, and a finding, if the
    // range lies outside the file.
    template <class Words>
    bool count(Place place, HostOffset offset, std::uint64_t bytes, Use use, Finding past_end,
               Words words, std::uint64_t times = 1)
    {
        if (bytes == 0)
            return true;
        if (!is_inside(offset, bytes))
            return lost(place, offset, past_end, words);
        const Range clusters = Range::of(offset.value, bytes).touched(geometry_.cluster_size());
        counts_.add_run(clusters.begin, clusters.length(), times, use);
        return true;
    }
    // The same for a table, which is lost as a whole if its end is not there.
    template <class Words>
    bool count_table(Place place, HostOffset offset, std::uint64_t bytes, Use use, Finding past_end,
                     Words words, std::uint64_t times = 1)
    {
        return is_there(offset, bytes) ? count(place, offset, bytes, use, past_end, words, times)
                                       : lost(place, offset, past_end, words);
    }
    template <class Words>
    bool lost(Place place, HostOffset offset, Finding past_end, Words words)
    {
        findings_.add_lazily(past_end, words);
        if (offset < out_of_reach_from(place.kind == Place::Kind::compressed, geometry_))
            note_lost(place, words());
        return false;
    }
    void note_lost(Place place, std::string words);
    void keep_lost_names_in_other_things();

    // Tables of several owners, which may lie one over the other where an image is
    // broken. Each byte is read once, and stands for as many names as it has.
    struct Tables {
        std::vector<Range> bytes;
        std::vector<std::size_t> owners;  // their numbers

        void add(std::size_t owner, HostOffset offset, std::uint64_t length)
        {
            owners.push_back(owner);
            bytes.push_back(Range::of(offset.value, length));
        }
    };
    // A part of them: entries.
    struct TablePart {
        HostOffset offset;
        std::uint64_t entries;
        std::size_t owner;    // the first
        std::uint64_t index;  // of its first entry in that one's table
        std::uint64_t times;
    };
    // Counts their clusters, and calls follow(part) for each part.
    Result<void> for_each_part(const Tables &tables,
                               const std::function<Result<void>(const TablePart &)> &follow);

    Result<void> load_header();
    Result<void> walk_refcount_structure();
    Result<void> walk_active_l1();
    Result<void> walk_snapshots();
    Result<void> walk_l1(const TablePart &part, bool active, const std::string &name);
    Result<void> walk_l2_tables();
    Result<void> walk_l2(HostOffset table, const Named &named);
    Result<void> check_l2_entry(const L2Place &entry, const Named &named);
    void check_compressed(const L2Place &entry, std::uint64_t times);
    Result<void> check_copied(HostOffset cluster, bool copied, std::string_view what,
                              std::uint64_t index);
    Result<void> walk_bitmaps();
    bool is_followed(Place place, const BitmapDirectoryEntry &entry);
    Result<void> walk_bitmap_table(const TablePart &part, const BitmapDirectoryEntry &entry);
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
    Lost lost_;

    TableBuffer table_buffer_;
};

}  // namespace qcow2
