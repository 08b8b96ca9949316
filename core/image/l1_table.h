// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// L1Table: the L1 table that is in use, in memory as far as it is not zero, and which
// of its sectors the file does not have yet. It has no lock of its own: Mapping holds it
// under the lock of the tables, since who follows an entry looks at both.

#pragma once

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "core/base/byte_store.h"
#include "core/base/sparse_words.h"
#include "core/format/geometry.h"
#include "core/format/table_entry.h"

namespace qcow2 {

// Whether the L2 table that it names, if any, can be read.
Result<void> check_l1_entry(L1Entry entry, const Geometry &geometry, const ByteStore &store);

class L1Table {
public:
    struct Sector {
        std::uint64_t offset;  // in the file
        Buffer bytes;
    };

    // Without entries.
    explicit L1Table(const Geometry &geometry) : geometry_(geometry) {}
    // Reads it; the entries are not checked.
    static Result<L1Table> load(ByteStore &store, const Geometry &geometry, HostOffset offset,
                                std::uint32_t l1_size);

    HostOffset offset() const { return offset_; }
    std::uint64_t size() const { return entries_.size(); }  // entries
    HostRun clusters() const;
    L1Entry operator[](std::uint64_t index) const { return L1Entry(entries_[index]); }
    // Calls visit(index, entry) for each entry that is not zero.
    template <class Visit>
    void for_each(Visit visit) const
    {
        for (std::uint64_t i = entries_.next_set(0); i < size(); i = entries_.next_set(i + 1))
            visit(i, (*this)[i]);
    }
    bool has_tables() const;
    // The entry that leads to this cluster; behind the last one there is none.
    L1Entry of(GuestCluster cluster) const { return (*this)[geometry_.l1_index(cluster)]; }
    // Clusters from this one on that have no L2 table.
    std::uint64_t absent_length(GuestCluster cluster, std::uint64_t clusters_max) const;

    // The entry is about to be changed: all that could fail comes here.
    void before_change(std::uint64_t index);
    void change(std::uint64_t index, L1Entry entry) noexcept { entries_.set(index, entry.raw()); }

    // More entries, at another place, where they are all written by the caller.
    void move_to(HostOffset offset, std::uint64_t entries);
    // The whole table as it is in the file.
    Buffer bytes() const { return encode(0, entries_.size()); }

    // What the file does not have: as it is now, and by number.
    bool is_dirty() const { return !dirty_.empty(); }
    std::vector<Sector> dirty_sectors() const;
    std::set<std::uint64_t> take_dirty() noexcept { return std::exchange(dirty_, {}); }
    // They were not written.
    void put_back_dirty(std::set<std::uint64_t> sectors) { dirty_.merge(sectors); }

private:
    Buffer encode(std::uint64_t first, std::uint64_t end) const;

    Geometry geometry_;
    HostOffset offset_;
    SparseWords entries_;
    std::set<std::uint64_t> dirty_;  // sectors
};

}  // namespace qcow2
