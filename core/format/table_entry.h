// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The 64-bit words of L1, L2, refcount and bitmap tables: raw value and named
// bits, in native byte order. What they mean is checked by the decode
// functions; detail strings of errors name the place. Pure.

#pragma once

#include <cstdint>
#include <span>

#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/format/geometry.h"

namespace qcow2 {

constexpr std::uint64_t entry_offset_mask = 0x00fffffffffffe00;  // bits 9-55
constexpr std::uint64_t entry_copied = std::uint64_t(1) << 63;
constexpr std::uint64_t l2_entry_compressed = std::uint64_t(1) << 62;
constexpr std::uint64_t l2_entry_zero = 1;
constexpr std::uint64_t l1_entry_reserved = 0x7f000000000001ff;
constexpr std::uint64_t l2_entry_reserved = 0x3f000000000001fe;
constexpr std::uint64_t refcount_table_entry_reserved = 0x1ff;
constexpr std::uint64_t bitmap_table_entry_all_ones = 1;
constexpr std::uint64_t bitmap_table_entry_reserved = 0xff000000000001fe;

// A name that leads behind the end of the file is *lost*: what it named is not
// there. Put *out of reach* it leads behind every end that a file gets: the highest
// bit of its offset is set. So the file may grow, and what comes to lie where the
// name has led is not taken for what was lost. Bit 63 goes, for nothing is counted
// there. This is for words with an offset in bits 9-55, and for plain offsets.
constexpr std::uint64_t entry_out_of_reach = std::uint64_t(1) << 55;
constexpr std::uint64_t put_out_of_reach(std::uint64_t raw)
{
    return (raw | entry_out_of_reach) & ~entry_copied;
}

class L1Entry {
public:
    constexpr L1Entry() = default;
    constexpr explicit L1Entry(std::uint64_t raw) : raw_(raw) {}
    static constexpr L1Entry of(HostOffset l2_table, bool copied)
    {
        return L1Entry(l2_table.value | (copied ? entry_copied : 0));
    }

    constexpr std::uint64_t raw() const { return raw_; }
    constexpr bool present() const { return (raw_ & entry_offset_mask) != 0; }
    constexpr HostOffset l2_table() const { return HostOffset(raw_ & entry_offset_mask); }
    constexpr bool copied() const { return raw_ & entry_copied; }
    // There is a table, and it is ours alone. Bit 63 by itself names none.
    constexpr bool own() const { return present() && copied(); }
    friend constexpr bool operator==(L1Entry, L1Entry) = default;

private:
    std::uint64_t raw_ = 0;
};

// Reserved bits and alignment.
Result<L1Entry> decode_l1_entry(std::uint64_t raw, const Geometry &geometry);

// The offset of a refcount block, 0 for "absent". Reserved bits and alignment.
Result<HostOffset> decode_refcount_table_entry(std::uint64_t raw, const Geometry &geometry);

// The meaning of a bitmap table entry.
struct BitmapTableEntry {
    HostOffset data;  // 0: no cluster, all bits are `all_ones`
    bool all_ones = false;

    constexpr bool has_cluster() const { return data.value != 0; }
    constexpr std::uint64_t raw() const
    {
        return data.value | (all_ones ? bitmap_table_entry_all_ones : 0);
    }
    friend constexpr bool operator==(const BitmapTableEntry &, const BitmapTableEntry &) = default;
};

Result<BitmapTableEntry> decode_bitmap_table_entry(std::uint64_t raw, const Geometry &geometry);

// A table of words, or a part of it, as it is in the file.
template <class Entry>
Buffer encode_entries(std::span<const Entry> entries)
{
    Buffer bytes(entries.size() * 8);
    for (std::size_t i = 0; i < entries.size(); ++i)
        store_be64(&bytes[i * 8], entries[i].raw());
    return bytes;
}

}  // namespace qcow2
