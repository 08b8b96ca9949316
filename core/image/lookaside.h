// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lookaside: where the clusters are that were looked up lately, for those who
// look without the lock of the mapping. What it says is true, or it says
// nothing. Data clusters only.
//
// A slot is one word, so it is read and written as a whole. A cluster has one
// slot; others that share it push it out.
//
// find(): any thread, no lock. All else: under the lock under which mappings change.
// put() and forget() run in the same critical section as the read or the change of the
// entry that they describe. So a find() that starts after a change has returned never sees
// the old value; one that does see it has started earlier, and drain() (W3) waits for it.

#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/format/cluster_mapping.h"
#include "core/format/geometry.h"

namespace qcow2 {

class Lookaside {
public:
    // clusters: as many as the disk has; bytes_max: of memory, at least 8.
    Lookaside(const Geometry &geometry, std::uint64_t clusters, std::uint64_t bytes_max)
        : cluster_bits_(geometry.cluster_bits),
          tag_shift_(host_shift + host_offset_bits - geometry.cluster_bits),
          slots_(std::min(std::bit_ceil(std::max<std::uint64_t>(clusters, 1)),
                          std::bit_floor(bytes_max / sizeof(Slot))))
    {
    }

    std::optional<Data> find(GuestCluster cluster) const
    {
        const std::uint64_t word = slots_[slot(cluster)].load();
        if (!(word & there) || word >> tag_shift_ != tag(cluster))
            return std::nullopt;
        const std::uint64_t host = word << (64 - tag_shift_) >> (64 - tag_shift_ + host_shift);
        return Data{HostOffset(host << cluster_bits_), (word & copied) != 0};
    }

    void put(GuestCluster cluster, const Data &data)
    {
        const std::uint64_t word = tag(cluster) << tag_shift_ |
                                   data.host.value >> cluster_bits_ << host_shift |
                                   (data.copied ? copied : 0) | there;
        if (word >> tag_shift_ == tag(cluster))  // else it has no room
            slots_[slot(cluster)].store(word);
    }

    void forget(GuestCluster first, std::uint64_t count)
    {
        for (std::uint64_t i = 0; i < std::min<std::uint64_t>(count, slots_.size()); ++i)
            slots_[slot(first + i)].store(0);
    }

    void forget_all() { forget(GuestCluster(0), slots_.size()); }

private:
    using Slot = std::atomic<std::uint64_t>;

    // From bit 0 on: there, copied, number of the host cluster, and what of the
    // number of the guest cluster is not in the slot's.
    static constexpr std::uint64_t there = 1, copied = 2;
    static constexpr unsigned host_shift = 2, host_offset_bits = 56;

    std::uint64_t slot(GuestCluster cluster) const { return cluster.value & (slots_.size() - 1); }
    std::uint64_t tag(GuestCluster cluster) const
    {
        return cluster.value >> std::countr_zero(slots_.size());
    }

    const unsigned cluster_bits_;
    const unsigned tag_shift_;
    std::vector<Slot> slots_;
};

}  // namespace qcow2
