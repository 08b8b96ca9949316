// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/table_entry.h"

#include "core/format/findings.h"

namespace qcow2 {

Result<L1Entry> decode_l1_entry(std::uint64_t raw, const Geometry &geometry)
{
    const L1Entry entry(raw);
    if (raw & l1_entry_reserved)
        return finding(Finding::l1_entry_reserved_bits, "it is {:#x}", raw);
    if (!geometry.is_aligned(entry.l2_table()))
        return finding(Finding::l1_entry_unaligned, "it is {:#x}", raw);
    return entry;
}

Result<HostOffset> decode_refcount_table_entry(std::uint64_t raw, const Geometry &geometry)
{
    if (raw & refcount_table_entry_reserved)
        return finding(Finding::refcount_table_entry_reserved_bits, "it is {:#x}", raw);
    const HostOffset block(raw);
    if (!geometry.is_aligned(block))
        return finding(Finding::refcount_block_unaligned, "it is {:#x}", raw);
    return block;
}

Result<BitmapTableEntry> decode_bitmap_table_entry(std::uint64_t raw, const Geometry &geometry)
{
    const HostOffset data(raw & entry_offset_mask);
    const bool all_ones = raw & bitmap_table_entry_all_ones;
    // Bit 0 has a meaning only where there is no cluster.
    if ((raw & bitmap_table_entry_reserved) || (data.value != 0 && all_ones))
        return finding(Finding::bitmap_table_entry_reserved_bits, "it is {:#x}", raw);
    if (!geometry.is_aligned(data))
        return finding(Finding::bitmap_table_entry_unaligned, "it is {:#x}", raw);
    return BitmapTableEntry{data, all_ones};
}

}  // namespace qcow2
