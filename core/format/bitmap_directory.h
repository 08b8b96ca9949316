// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The bitmap directory: records <-> structs. Pure.
//
// decode returns every entry that has the form of one, the bad ones with
// their finding, so that the disk can be served beside a bitmap that cannot;
// only a directory whose records cannot be told apart is an error as a whole.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/format/findings.h"
#include "core/format/header.h"

namespace qcow2 {

namespace on_disk {
// qcow2.rst, "Bitmap directory".
struct BitmapDirectoryEntry {
    be64 bitmap_table_offset;  //  0 -  7
    be32 bitmap_table_size;    //  8 - 11: entries, not bytes
    be32 flags;                // 12 - 15
    u8 type;                   // 16
    u8 granularity_bits;       // 17
    be16 name_size;            // 18 - 19
    be32 extra_data_size;      // 20 - 23
    // then extra_data, name, and zero padding up to a multiple of 8
};
static_assert(sizeof(BitmapDirectoryEntry) == 24);
static_assert(offsetof(BitmapDirectoryEntry, flags) == 12);
static_assert(offsetof(BitmapDirectoryEntry, extra_data_size) == 20);
}  // namespace on_disk

namespace bitmap_flags {
constexpr std::uint32_t in_use = 1 << 0;
constexpr std::uint32_t auto_ = 1 << 1;
constexpr std::uint32_t extra_data_compatible = 1 << 2;
constexpr std::uint32_t known = 0x7;
}  // namespace bitmap_flags

constexpr std::uint8_t bitmap_type_dirty_tracking = 1;

struct BitmapDirectoryEntry {
    HostOffset bitmap_table_offset;
    std::uint32_t bitmap_table_size = 0;  // entries
    std::uint32_t flags = 0;
    std::uint8_t type = bitmap_type_dirty_tracking;
    std::uint8_t granularity_bits = 16;
    std::string name;   // any bytes
    Buffer extra_data;  // kept byte for byte

    // Where the record begins, in bytes from the directory's beginning.
    std::uint64_t position = 0;

    // Why QEMU, or we, could not use it; nullopt if it is sound. Of several
    // the first in the order of the record's fields.
    std::optional<Finding> finding;

    bool in_use() const { return flags & bitmap_flags::in_use; }
    bool enabled() const { return flags & bitmap_flags::auto_; }
    // Bytes. (The field of a damaged entry can be up to 255.)
    std::uint64_t granularity() const
    {
        return std::uint64_t(1) << (granularity_bits < 63 ? granularity_bits : 63);
    }
    // What the name is to QEMU, which ends it at a NUL.
    std::string_view name_for_qemu() const
    {
        return std::string_view(name).substr(0, name.find('\0'));
    }
    std::uint64_t flags_position() const { return position + 12; }
    std::uint64_t encoded_size() const
    {
        return align_up(sizeof(on_disk::BitmapDirectoryEntry) + extra_data.size() + name.size(), 8);
    }
    friend bool operator==(const BitmapDirectoryEntry &, const BitmapDirectoryEntry &) = default;
};

// Whether we would give a bitmap this name: 1 to 1023 bytes, UTF-8, no NUL.
// (What others wrote may be any bytes.)
Result<void> check_bitmap_name(std::string_view name);

// bytes: exactly bitmap_directory_size. Checked for each entry alone and for
// unique names; the size of the table against the disk's: bitmap_table.h.
// Padding that is not zero passes, as with QEMU; check() reports it.
Result<std::vector<BitmapDirectoryEntry>> decode_bitmap_directory(Bytes bytes,
                                                                  std::uint32_t nb_bitmaps,
                                                                  const Geometry &geometry);

// Sets nothing: positions are those that the entries get. Padding is zero.
Buffer encode_bitmap_directory(std::vector<BitmapDirectoryEntry> &entries);

}  // namespace qcow2
