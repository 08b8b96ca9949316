// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Geometry: every shift and table size, derived once from the header. A small
// value, copied freely.

#pragma once

#include <cstdint>

#include "core/base/arith.h"
#include "core/format/units.h"

namespace qcow2 {

struct Geometry {
    std::uint32_t version = 3;
    std::uint32_t cluster_bits = 16;
    std::uint32_t refcount_order = 4;
    bool extended_l2 = false;
    bool data_file = false;  // guest clusters are in an external data file

    constexpr std::uint64_t cluster_size() const { return std::uint64_t(1) << cluster_bits; }

    // L2 tables: one cluster each.
    constexpr std::uint32_t l2_entry_bytes() const { return extended_l2 ? 16 : 8; }
    constexpr std::uint32_t l2_bits() const { return cluster_bits - (extended_l2 ? 4 : 3); }
    constexpr std::uint64_t l2_entries() const { return std::uint64_t(1) << l2_bits(); }
    // Bytes of guest that one L2 table, one L1 entry, covers.
    constexpr std::uint64_t l2_reach() const
    {
        return std::uint64_t(1) << (l2_bits() + cluster_bits);
    }

    // What one bit, or one entry, says something of: the parts of a cluster.
    constexpr std::uint32_t part_bits() const
    {
        return extended_l2 ? cluster_bits - 5 : cluster_bits;
    }
    constexpr std::uint64_t part_size() const { return std::uint64_t(1) << part_bits(); }
    constexpr std::uint64_t parts_per_cluster() const { return extended_l2 ? 32 : 1; }

    // Refcount blocks: one cluster each.
    constexpr std::uint32_t refcount_bits() const { return std::uint32_t(1) << refcount_order; }
    constexpr std::uint64_t refcount_max() const
    {
        return refcount_order == 6 ? ~std::uint64_t(0) : (std::uint64_t(1) << refcount_bits()) - 1;
    }
    constexpr std::uint32_t refcount_block_bits() const
    {
        return cluster_bits + 3 - refcount_order;
    }
    constexpr std::uint64_t refcount_block_entries() const
    {
        return std::uint64_t(1) << refcount_block_bits();
    }

    constexpr std::uint64_t clusters_for(std::uint64_t bytes) const
    {
        return div_ceil(bytes, cluster_size());
    }
    // L1 entries that a disk of this size needs.
    constexpr std::uint64_t l1_entries_for(std::uint64_t disk_size) const
    {
        return div_ceil(disk_size, l2_reach());
    }

    constexpr GuestCluster cluster_of(GuestOffset o) const
    {
        return GuestCluster(o.value >> cluster_bits);
    }
    constexpr HostCluster cluster_of(HostOffset o) const
    {
        return HostCluster(o.value >> cluster_bits);
    }
    constexpr GuestOffset offset_of(GuestCluster c) const
    {
        return GuestOffset(c.value << cluster_bits);
    }
    constexpr HostOffset offset_of(HostCluster c) const
    {
        return HostOffset(c.value << cluster_bits);
    }
    constexpr std::uint64_t in_cluster(GuestOffset o) const
    {
        return o.value & (cluster_size() - 1);
    }
    constexpr std::uint64_t in_cluster(HostOffset o) const
    {
        return o.value & (cluster_size() - 1);
    }
    constexpr bool is_aligned(HostOffset o) const { return in_cluster(o) == 0; }

    constexpr std::uint64_t l1_index(GuestCluster c) const { return c.value >> l2_bits(); }
    constexpr std::uint64_t l2_index(GuestCluster c) const { return c.value & (l2_entries() - 1); }
};

}  // namespace qcow2
