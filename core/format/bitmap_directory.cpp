// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/bitmap_directory.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <unordered_set>

#include "core/base/utf8.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

// What is wrong with the table's place and size, in any bitmap. The size that
// the disk needs is another matter, and in_use bitmaps may have another.
std::optional<Finding> check_table(const BitmapDirectoryEntry &e, const Geometry &geometry)
{
    const std::uint64_t bytes = std::uint64_t(e.bitmap_table_size) * 8;
    if (e.bitmap_table_offset.value == 0)
        return Finding::bitmap_table_missing;
    if (!geometry.is_aligned(e.bitmap_table_offset))
        return Finding::bitmap_table_unaligned;
    if (!fits(e.bitmap_table_offset.value, bytes, std::uint64_t(1) << 63))
        return Finding::bitmap_table_past_end;
    if (e.bitmap_table_size == 0 ||
        e.bitmap_table_size > limits::bitmap_data_bytes_max >> geometry.cluster_bits)
        return Finding::bitmap_table_size_wrong;
    return std::nullopt;
}

std::optional<Finding> check_entry(const BitmapDirectoryEntry &e, const Geometry &geometry)
{
    if (const auto wrong = check_table(e, geometry))
        return wrong;
    if (e.flags & ~bitmap_flags::known)
        return Finding::bitmap_flags_reserved;
    if (e.type != bitmap_type_dirty_tracking)
        return Finding::bitmap_type_unknown;
    if (e.granularity_bits < limits::bitmap_granularity_bits_min ||
        e.granularity_bits > limits::bitmap_granularity_bits_max)
        return Finding::bitmap_granularity_out_of_range;
    if (e.name.empty() || e.name.size() > limits::bitmap_name_bytes_max)
        return Finding::bitmap_name_size_wrong;
    // Data that nobody knows are no harm if the flag says so.
    if (!e.extra_data.empty() && !(e.flags & bitmap_flags::extra_data_compatible))
        return Finding::bitmap_extra_data_unknown;
    return std::nullopt;
}

// The record at the beginning of `bytes`, with its padding.
Result<BitmapDirectoryEntry> decode_entry(Bytes bytes, const Geometry &geometry)
{
    on_disk::BitmapDirectoryEntry raw;
    if (bytes.size() < sizeof raw)
        return finding(Finding::bitmap_directory_entry_truncated);
    std::memcpy(&raw, bytes.data(), sizeof raw);
    const std::uint64_t extra_size = raw.extra_data_size.value();
    const std::uint64_t name_size = raw.name_size.value();
    if (bytes.size() < align_up(sizeof raw + extra_size + name_size, 8))  // cannot overflow
        return finding(Finding::bitmap_directory_entry_truncated);

    const Bytes extra = sub(bytes, sizeof raw, extra_size);
    const Bytes name = sub(bytes, sizeof raw + extra_size, name_size);
    BitmapDirectoryEntry e;
    e.bitmap_table_offset = HostOffset(raw.bitmap_table_offset.value());
    e.bitmap_table_size = raw.bitmap_table_size.value();
    e.flags = raw.flags.value();
    e.type = raw.type;
    e.granularity_bits = raw.granularity_bits;
    e.extra_data.assign(extra.begin(), extra.end());
    e.name.assign(name.begin(), name.end());
    e.finding = check_entry(e, geometry);
    return e;
}

// A name that was there before is wrong, except on a bitmap that is in_use:
// that one cannot be used anyhow, and QEMU lets it pass.
void find_duplicates(std::vector<BitmapDirectoryEntry> &entries)
{
    std::unordered_set<std::string_view> names;
    for (BitmapDirectoryEntry &e : entries)
        if (!names.insert(e.name).second && !e.in_use() && !e.finding)
            e.finding = Finding::bitmap_name_duplicate;
}

}  // namespace

Result<void> check_bitmap_name(std::string_view name)
{
    if (name.empty() || name.size() > limits::bitmap_name_bytes_max)
        return Error(Errc::invalid, "the name of a bitmap has 1 to {} bytes, not {}",
                     limits::bitmap_name_bytes_max, name.size());
    if (!is_utf8(name) || name.find('\0') != name.npos)
        return Error(Errc::invalid, "the name is not valid UTF-8");
    return {};
}

Result<std::vector<BitmapDirectoryEntry>> decode_bitmap_directory(Bytes bytes,
                                                                  std::uint32_t nb_bitmaps,
                                                                  const Geometry &geometry)
{
    std::vector<BitmapDirectoryEntry> entries;
    std::uint64_t position = 0;
    for (std::uint32_t i = 0; i < nb_bitmaps; ++i) {
        auto entry = decode_entry(bytes.subspan(position), geometry);
        if (!entry)
            return std::move(entry).error().in("bitmap {}, {:#x} into the directory", i, position);
        entry->position = position;
        position += entry->encoded_size();
        entries.push_back(*std::move(entry));
    }
    if (position != bytes.size())
        return finding(Finding::bitmap_directory_trailing_bytes,
                       "{} entries end at {:#x}, not at {:#x}", nb_bitmaps, position, bytes.size());
    find_duplicates(entries);
    return entries;
}

Buffer encode_bitmap_directory(std::vector<BitmapDirectoryEntry> &entries)
{
    Buffer out;
    for (BitmapDirectoryEntry &e : entries) {
        INVARIANT(e.name.size() <= 0xffff && e.extra_data.size() <= 0xffffffff);
        on_disk::BitmapDirectoryEntry raw;
        raw.bitmap_table_offset = e.bitmap_table_offset.value;
        raw.bitmap_table_size = e.bitmap_table_size;
        raw.flags = e.flags;
        raw.type = e.type;
        raw.granularity_bits = e.granularity_bits;
        raw.name_size = static_cast<std::uint16_t>(e.name.size());
        raw.extra_data_size = static_cast<std::uint32_t>(e.extra_data.size());

        e.position = out.size();
        out.resize(out.size() + e.encoded_size());
        std::uint8_t *p = out.data() + e.position;
        std::memcpy(p, &raw, sizeof raw);
        p = std::copy(e.extra_data.begin(), e.extra_data.end(), p + sizeof raw);
        std::copy(e.name.begin(), e.name.end(), p);
    }
    return out;
}

}  // namespace qcow2
