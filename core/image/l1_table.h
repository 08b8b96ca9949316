// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// L1Table: the L1 table that is in use, in memory as a whole, and which of its
// sectors the file does not have yet. It has no lock of its own: Mapping holds it
// under the lock of the tables, since who follows an entry looks at both.

#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "core/base/byte_store.h"
#include "core/format/geometry.h"
#include "core/format/table_entry.h"

namespace qcow2 {

// Calls visit(index, entry) for each entry of an L1 table in the file, unchecked,
// until that fails.
Result<void> for_each_l1_entry(ByteStore &store, HostOffset l1_table_offset, std::uint32_t l1_size,
                               const std::function<Result<void>(std::uint32_t, L1Entry)> &visit);

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
    const std::vector<L1Entry> &entries() const { return entries_; }
    bool has_tables() const;
    // The entry that leads to this cluster; behind the last one there is none.
    L1Entry of(GuestCluster cluster) const
    {
        const std::uint64_t index = geometry_.l1_index(cluster);
        return index < entries_.size() ? entries_[index] : L1Entry();
    }
    // Clusters from this one on that have no L2 table.
    std::uint64_t absent_length(GuestCluster cluster, std::uint64_t clusters_max) const;

    // The entry is about to be changed: all that could fail comes here.
    void before_change(std::uint64_t index);
    void change(std::uint64_t index, L1Entry entry) noexcept { entries_[index] = entry; }

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
    std::vector<L1Entry> entries_;
    std::set<std::uint64_t> dirty_;  // sectors
};

}  // namespace qcow2
