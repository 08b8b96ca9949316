// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/l2_table.h"

#include "core/base/range.h"
#include "core/format/findings.h"

namespace qcow2 {

Result<ClusterMapping> L2Table::get(std::uint64_t index) const
{
    const std::uint8_t *entry = at(index);
    return geometry_.extended_l2
               ? decode_extended_l2_entry({load_be64(entry), load_be64(entry + 8)}, geometry_)
               : decode_l2_entry(load_be64(entry), geometry_);
}

void L2Table::set(std::uint64_t index, const ClusterMapping &mapping)
{
    std::uint8_t *entry = at(index);
    if (!geometry_.extended_l2)
        return store_be64(entry, encode_l2_entry(mapping, geometry_));
    const ExtendedL2Entry raw = encode_extended_l2_entry(mapping, geometry_);
    store_be64(entry, raw.descriptor);
    store_be64(entry + 8, raw.subclusters);
}

HostOffset host_cluster(const ClusterMapping &mapping)
{
    return std::visit(Overloaded{
                          [](const Unallocated &) { return HostOffset(); },
                          [](const Zero &zero) { return zero.host; },
                          [](const Data &data) { return data.host; },
                          [](const Compressed &) { return HostOffset(); },
                          [](const Subclusters &parts) { return parts.host; },
                      },
                      mapping);
}

Result<void> check_place_in_data_file(const ClusterMapping &mapping, GuestOffset guest)
{
    const auto at = [&](bool present, HostOffset host) -> Result<void> {
        if (!present || host.value == guest.value)
            return {};
        return finding(Finding::data_file_offset_wrong, "host offset {:#x}", host.value);
    };
    return std::visit(
        Overloaded{
            [](const Unallocated &) { return Result<void>(); },
            [&](const Zero &zero) { return at(zero.has_cluster(), zero.host); },
            [&](const Data &data) { return at(true, data.host); },
            [](const Compressed &compressed) -> Result<void> {
                return finding(Finding::l2_entry_reserved_bits, "compressed, at host offset {:#x}",
                               compressed.host.value);
            },
            [&](const Subclusters &parts) { return at(parts.has_cluster(), parts.host); },
        },
        mapping);
}

HostRun named_clusters(const ClusterMapping &mapping, const Geometry &geometry)
{
    if (geometry.data_file)
        return {};
    if (const auto *compressed = std::get_if<Compressed>(&mapping)) {
        if (compressed->host >= out_of_reach_from(true, geometry))
            return {};
        const Range touched = Range::of(compressed->host.value, compressed->bytes_max)
                                  .touched(geometry.cluster_size());
        return {HostCluster(touched.begin), touched.length()};
    }
    const HostOffset host = host_cluster(mapping);
    const bool names = host.value != 0 && host < out_of_reach_from(false, geometry);
    return !names ? HostRun{} : HostRun{geometry.cluster_of(host), 1};
}

}  // namespace qcow2
