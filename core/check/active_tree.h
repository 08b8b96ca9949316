// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ActiveTree: the L1 table and the L2 tables of the active state, and what bit
// 63 of their entries is to be after a repair. One thread.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "core/base/table_reader.h"
#include "core/check/right_counts.h"

namespace qcow2 {

class ActiveTree {
public:
    // All must outlive it.
    ActiveTree(ByteStore &store, ImageWalk &walk, RightCounts &counts, RepairKind kind)
        : store_(store), walk_(walk), counts_(counts), kind_(kind)
    {
    }

    // Once, before all else. Tables whose clusters are something else, too (a bitmap,
    // the guest's data) are written neither in place nor anew: what they are is not
    // known. So bits 63 in them stay as they are, and with them the refcounts of what
    // they name.
    Result<void> keep_what_is_not_apart();
    // Finds the tables in which a bit is wrong, of those that can be written.
    Result<void> find_wrong();
    // Of these the shared ones that have other things wrong besides: moved, there
    // would be twice as many of such. In shared tables bits only go: they are cleared
    // in place, and then the wrong ones have to be found again.
    std::vector<HostOffset> wrong_and_shared() const;
    Result<void> clear_in_place(const std::vector<HostOffset> &tables);
    bool any_wrong() const { return wrong_l1_ || !wrong_l2_.empty(); }
    // L2 tables by offset, ascending.
    const std::set<HostOffset> &wrong_l2() const { return wrong_l2_; }

    // Whether these can be moved, and the L1 table with them.
    bool movable() const;
    std::uint64_t l1_clusters() const;
    // New contents for the L1 table, given where L2 tables have been moved to,
    // and for an L2 table: whole clusters.
    Result<Buffer> right_l1(const std::map<HostOffset, HostOffset> &moved);
    Result<Buffer> right_l2(HostOffset table);

    // In place. Only bits that go, or all. Returns whether anything was written.
    enum class Which { cleared, all };
    Result<bool> write_in_place(Which which);

private:
    const Geometry &geometry() const { return walk_.geometry(); }
    const Header &header() const { return walk_.header(); }
    std::uint64_t cluster_of(HostOffset offset) const
    {
        return offset.value >> geometry().cluster_bits;
    }
    bool followed() const;
    bool is_apart(HostOffset table, std::uint64_t bytes, std::uint64_t times, bool is_l2) const;
    Result<std::uint64_t> right_bit(std::uint64_t raw, HostOffset host);
    Result<std::uint64_t> right_l1_entry(std::uint64_t raw);
    Result<std::uint64_t> right_l2_entry(std::uint64_t raw);
    Result<bool> write_l2(HostOffset table, Which which);
    Result<bool> write_table(HostOffset table, Bytes right, std::uint64_t entry_bytes, Which which);

    ByteStore &store_;
    ImageWalk &walk_;
    RightCounts &counts_;
    const RepairKind kind_;
    bool l1_stays_ = false;
    std::set<HostOffset> l2_stay_;
    bool wrong_l1_ = false;
    std::set<HostOffset> wrong_l2_;
    TableBuffer table_buffer_;
};

}  // namespace qcow2
