// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// L2Table: all entries of one L2 table, in memory. For structural changes,
// which look at whole tables; the mapping looks at pieces. Pure.

#pragma once

#include "core/base/bytes.h"
#include "core/format/cluster_mapping.h"

namespace qcow2 {

class L2Table {
public:
    // Nothing is mapped.
    explicit L2Table(const Geometry &geometry)
        : geometry_(geometry), bytes_(geometry.cluster_size())
    {
    }

    Bytes bytes() const { return bytes_; }
    MutableBytes bytes() { return bytes_; }

    std::uint64_t entries() const { return geometry_.l2_entries(); }
    Result<ClusterMapping> get(std::uint64_t index) const;
    void set(std::uint64_t index, const ClusterMapping &mapping);
    bool copied(std::uint64_t index) const { return load_be64(at(index)) & entry_copied; }
    void clear_copied(std::uint64_t index)
    {
        store_be64(at(index), load_be64(at(index)) & ~entry_copied);
    }

    friend bool operator==(const L2Table &a, const L2Table &b) { return a.bytes_ == b.bytes_; }

private:
    const std::uint8_t *at(std::uint64_t index) const
    {
        return sub(Bytes(bytes_), index * geometry_.l2_entry_bytes(), geometry_.l2_entry_bytes())
            .data();
    }
    std::uint8_t *at(std::uint64_t index)
    {
        return sub(MutableBytes(bytes_), index * geometry_.l2_entry_bytes(),
                   geometry_.l2_entry_bytes())
            .data();
    }

    Geometry geometry_;
    Buffer bytes_;
};

// The host cluster that a mapping has for its own; 0 if none.
HostOffset host_cluster(const ClusterMapping &mapping);

// The host clusters that a mapping names, and that are counted for it: none in
// an external data file. Compressed data name every cluster that they touch; what
// is out of reach names nothing.
HostRun named_clusters(const ClusterMapping &mapping, const Geometry &geometry);

// In an external data file each cluster is where it is in the disk, also the first
// one of it, at offset 0; compressed ones there are none.
Result<void> check_place_in_data_file(const ClusterMapping &mapping, GuestOffset guest);

}  // namespace qcow2
