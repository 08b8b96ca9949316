// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What an L2 entry means. Every use covers every meaning. Pure.
//
// With extended L2 entries a cluster is a Subclusters or a Compressed; the data
// path sees its parts as Unallocated, Zero or Data, one subcluster at a time.

#pragma once

#include <cstdint>
#include <variant>

#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/format/table_entry.h"

namespace qcow2 {

// Reads as the backing file, or as zeros.
struct Unallocated {
    friend constexpr bool operator==(const Unallocated &, const Unallocated &) = default;
};

// Reads as zeros. `host` is a cluster that is kept for later writes, 0 if none.
struct Zero {
    HostOffset host;
    bool copied = false;  // bit 63; only with a host cluster

    constexpr bool has_cluster() const { return host.value != 0; }
    friend constexpr bool operator==(const Zero &, const Zero &) = default;
};

struct Data {
    HostOffset host;
    bool copied = false;  // bit 63: refcount is exactly 1, may be written in place

    friend constexpr bool operator==(const Data &, const Data &) = default;
};

struct Compressed {
    HostOffset host;              // byte offset, unaligned
    std::uint64_t bytes_max = 0;  // the data end here at the latest

    friend constexpr bool operator==(const Compressed &, const Compressed &) = default;
};

// Extended L2: 32 parts, part k in bit k. A part is allocated, or reads as
// zeros, or neither (the backing file). Never both.
struct Subclusters {
    HostOffset host;
    bool copied = false;
    std::uint32_t allocated = 0;
    std::uint32_t zero = 0;

    static constexpr std::uint32_t count = 32;
    // If not then no part is allocated. The first cluster of an external data
    // file is at 0, and is there if it has bit 63.
    constexpr bool has_cluster() const { return host.value != 0 || copied; }
    // What part k is.
    constexpr auto part(std::uint32_t k) const;
    friend constexpr bool operator==(const Subclusters &, const Subclusters &) = default;
};

using ClusterMapping = std::variant<Unallocated, Zero, Data, Compressed, Subclusters>;

constexpr auto Subclusters::part(std::uint32_t k) const
{
    if (zero >> k & 1)
        return ClusterMapping(Zero{host, copied});
    if (allocated >> k & 1)
        return ClusterMapping(Data{host, copied});
    return ClusterMapping(Unallocated{});
}

// Lambdas joined into one visitor.
template <class... F>
struct Overloaded : F... {
    using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

Result<ClusterMapping> decode_l2_entry(std::uint64_t raw, const Geometry &geometry);
std::uint64_t encode_l2_entry(const ClusterMapping &mapping, const Geometry &geometry);

// An L2 entry that is lost, put out of reach (table_entry.h). The offset of a
// compressed cluster has fewer bits.
std::uint64_t put_l2_entry_out_of_reach(std::uint64_t raw, const Geometry &geometry);
// The first host offset that such an entry leads to.
HostOffset out_of_reach_from(bool compressed, const Geometry &geometry);

// How many of these entries, which are not extended ones, belong to one run, by
// their words alone: the first was decoded, the others need not be. May say less
// than there are. Clusters end at host_end at the latest.
std::uint64_t run_of_entries(Bytes entries, HostOffset host_end, const Geometry &geometry);

// The two words of an extended entry. Encoding takes every meaning: Data and
// Zero are those of all parts.
struct ExtendedL2Entry {
    std::uint64_t descriptor = 0;
    std::uint64_t subclusters = 0;  // allocated in bits 0-31, zero in bits 32-63
    friend constexpr bool operator==(const ExtendedL2Entry &, const ExtendedL2Entry &) = default;
};

Result<ClusterMapping> decode_extended_l2_entry(ExtendedL2Entry raw, const Geometry &geometry);
ExtendedL2Entry encode_extended_l2_entry(const ClusterMapping &mapping, const Geometry &geometry);

}  // namespace qcow2
