// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What an L2 entry means. Every use covers every meaning. Pure.
//
// Subclusters (extended L2) will add a second word and a sixth meaning of
// their own; compressed clusters are decoded, but not yet served.

#pragma once

#include <cstdint>
#include <variant>

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

using ClusterMapping = std::variant<Unallocated, Zero, Data, Compressed>;

// Lambdas joined into one visitor.
template <class... F>
struct Overloaded : F... {
    using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

Result<ClusterMapping> decode_l2_entry(std::uint64_t raw, const Geometry &geometry);
std::uint64_t encode_l2_entry(const ClusterMapping &mapping, const Geometry &geometry);

}  // namespace qcow2
