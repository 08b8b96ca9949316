// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/cluster_mapping.h"

#include <algorithm>

#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

// Of a compressed descriptor the lower bits are the offset, the others up to
// bit 61 the number of additional sectors.
std::uint32_t compressed_offset_bits(const Geometry &geometry)
{
    return 70 - geometry.cluster_bits;
}

constexpr std::uint64_t low_bits(std::uint32_t n) { return (std::uint64_t(1) << n) - 1; }

Result<ClusterMapping> decode_compressed(std::uint64_t raw, const Geometry &geometry)
{
    const std::uint32_t x = compressed_offset_bits(geometry);
    const std::uint64_t offset = raw & low_bits(x);
    const std::uint64_t additional_sectors = (raw & low_bits(62)) >> x;
    if (raw & entry_copied)
        return finding(Finding::l2_entry_compressed_copied, "it is {:#x}", raw);
    if (offset >= limits::host_offset_end)
        return finding(Finding::l2_entry_reserved_bits, "it is {:#x}", raw);
    Compressed compressed;
    compressed.host = HostOffset(offset);
    compressed.bytes_max =
        (additional_sectors + 1) * limits::sector - (offset & (limits::sector - 1));
    return ClusterMapping(compressed);
}

std::uint64_t encode_compressed(const Compressed &c, const Geometry &geometry)
{
    const std::uint32_t x = compressed_offset_bits(geometry);
    const std::uint64_t sectors =
        div_ceil(c.bytes_max + (c.host.value & (limits::sector - 1)), limits::sector);
    INVARIANT(c.host.value <= low_bits(x) && c.host.value < limits::host_offset_end);
    INVARIANT(sectors >= 1 && sectors - 1 <= low_bits(62 - x));
    return l2_entry_compressed | (sectors - 1) << x | c.host.value;
}

std::uint64_t standard(HostOffset host, bool copied)
{
    INVARIANT((host.value & ~entry_offset_mask) == 0);
    return host.value | (copied ? entry_copied : 0);
}

}  // namespace

HostOffset out_of_reach_from(bool compressed, const Geometry &geometry)
{
    const std::uint64_t highest = std::uint64_t(1) << (compressed_offset_bits(geometry) - 1);
    return HostOffset(compressed ? std::min(highest, entry_out_of_reach) : entry_out_of_reach);
}

std::uint64_t put_l2_entry_out_of_reach(std::uint64_t raw, const Geometry &geometry)
{
    return (raw | out_of_reach_from(raw & l2_entry_compressed, geometry).value) & ~entry_copied;
}

Result<ClusterMapping> decode_l2_entry(std::uint64_t raw, const Geometry &geometry)
{
    if (raw & l2_entry_compressed)
        return decode_compressed(raw, geometry);

    // With extended L2 entries subclusters say it; QEMU does not look at the bit.
    const bool zero = (raw & l2_entry_zero) && !geometry.extended_l2;
    if (zero && geometry.version < 3)
        return finding(Finding::l2_entry_zero_flag_in_v2, "it is {:#x}", raw);
    if (raw & l2_entry_reserved)
        return finding(Finding::l2_entry_reserved_bits, "it is {:#x}", raw);
    const HostOffset host(raw & entry_offset_mask);
    if (!geometry.is_aligned(host))
        return finding(Finding::l2_entry_unaligned, "it is {:#x}", raw);

    // Bit 63 says nothing where there is no cluster, but with an external data
    // file it tells the cluster at offset 0 from none.
    const bool present = host.value != 0 || (geometry.data_file && (raw & entry_copied));
    const bool copied = present && (raw & entry_copied);
    if (zero)
        return ClusterMapping(Zero{host, copied && host.value != 0});
    if (present)
        return ClusterMapping(Data{host, copied});
    return ClusterMapping(Unallocated{});
}

std::uint64_t run_of_entries(Bytes entries, HostOffset host_end, const Geometry &geometry)
{
    const std::uint64_t raw = load_be64(entries.data());
    if (raw & l2_entry_compressed)
        return 1;
    std::uint64_t count = entries.size() / 8;
    const std::uint64_t host = raw & entry_offset_mask;
    if (host == 0 && raw & entry_copied)  // the first cluster of a data file
        return 1;
    const std::uint64_t step = host == 0 ? 0 : geometry.cluster_size();
    if (step != 0 && host < host_end.value)
        count = std::min(count, div_ceil(host_end.value - host, step));
    std::uint64_t alike = 1;
    while (alike < count && load_be64(&entries[alike * 8]) == raw + alike * step)
        ++alike;
    return alike;
}

std::uint64_t encode_l2_entry(const ClusterMapping &mapping, const Geometry &geometry)
{
    return std::visit(Overloaded{
                          [](const Unallocated &) { return std::uint64_t(0); },
                          [&](const Zero &z) {
                              INVARIANT(geometry.version >= 3 && !geometry.extended_l2);
                              return standard(z.host, z.copied && z.has_cluster()) | l2_entry_zero;
                          },
                          [](const Data &d) { return standard(d.host, d.copied); },
                          [&](const Compressed &c) { return encode_compressed(c, geometry); },
                          [](const Subclusters &) -> std::uint64_t {
                              INVARIANT(!"an entry of one word has no subclusters");
                              return 0;
                          },
                      },
                      mapping);
}

Result<ClusterMapping> decode_extended_l2_entry(ExtendedL2Entry raw, const Geometry &geometry)
{
    const ClusterMapping cluster = TRY(decode_l2_entry(raw.descriptor, geometry));
    const auto wrong = [&] {
        return finding(Finding::l2_subclusters_wrong, "it is {:#x}, {:#x}", raw.descriptor,
                       raw.subclusters);
    };
    if (std::holds_alternative<Compressed>(cluster))
        return raw.subclusters == 0 ? Result<ClusterMapping>(cluster) : wrong();
    Subclusters parts;
    if (const auto *data = std::get_if<Data>(&cluster)) {
        parts.host = data->host;
        parts.copied = data->copied;
    }
    parts.allocated = static_cast<std::uint32_t>(raw.subclusters);
    parts.zero = static_cast<std::uint32_t>(raw.subclusters >> 32);
    if ((parts.allocated & parts.zero) || (parts.allocated && !parts.has_cluster()))
        return wrong();
    return ClusterMapping(parts);
}

ExtendedL2Entry encode_extended_l2_entry(const ClusterMapping &mapping, const Geometry &geometry)
{
    constexpr std::uint64_t all = 0xffffffff;
    return std::visit(
        Overloaded{
            [](const Unallocated &) { return ExtendedL2Entry{}; },
            [](const Zero &z) {
                return ExtendedL2Entry{standard(z.host, z.copied && z.has_cluster()), all << 32};
            },
            [](const Data &d) {
                return ExtendedL2Entry{standard(d.host, d.copied), all};
            },
            [&](const Compressed &c) {
                return ExtendedL2Entry{encode_compressed(c, geometry), 0};
            },
            [](const Subclusters &s) {
                return ExtendedL2Entry{standard(s.host, s.copied),
                                       std::uint64_t(s.zero) << 32 | s.allocated};
            },
        },
        mapping);
}

}  // namespace qcow2
