// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ImageWalk: the bitmaps.

#include "core/base/log.h"
#include "core/check/walk.h"
#include "core/format/bitmap_table.h"
#include "core/format/table_entry.h"

namespace qcow2 {

Result<void> ImageWalk::walk_bitmaps()
{
    const Extension *extension = area_.find(ExtensionType::bitmaps);
    if (header().version < 3 || !(header().autoclear_features & autoclear::bitmaps)) {
        if (extension)
            findings_.note(
                "the bitmaps are not used: somebody has changed the image who does not know "
                "bitmaps (autoclear bit 0 is clear)");
        return {};
    }
    if (!extension) {
        findings_.add(Finding::bitmaps_extension_missing,
                      formatted("autoclear features {:#x}", header().autoclear_features));
        return {};
    }
    const auto e = decode_bitmaps_extension(extension->data, geometry_);
    if (!e) {
        findings_.add(Finding::bitmap_directory_size_wrong, e.error().what);
        return {};
    }
    if (!count({Place::Kind::header, {}}, e->bitmap_directory_offset, e->bitmap_directory_size,
               Use::sole, Finding::bitmap_directory_past_end,
               [&] { return hex(e->bitmap_directory_offset.value); }))
        return {};
    Buffer directory(e->bitmap_directory_size);
    TRY(store_.read(e->bitmap_directory_offset.value, directory));
    const auto entries = decode_bitmap_directory(directory, e->nb_bitmaps, geometry_);
    if (!entries) {
        findings_.add(Finding::bitmap_directory_entry_truncated, entries.error().what);
        return {};
    }
    Tables tables;
    for (std::size_t i = 0; i < entries->size(); ++i) {
        const BitmapDirectoryEntry &entry = (*entries)[i];
        // The offset of its table comes first.
        if (is_followed({Place::Kind::word, e->bitmap_directory_offset + entry.position}, entry))
            tables.add(i, entry.bitmap_table_offset, std::uint64_t(entry.bitmap_table_size) * 8);
    }
    check_padding(directory, *entries);
    return for_each_part(tables, [&](const TablePart &part) {
        return walk_bitmap_table(part, (*entries)[part.owner]);
    });
}

void ImageWalk::check_padding(Bytes directory, const std::vector<BitmapDirectoryEntry> &entries)
{
    for (const BitmapDirectoryEntry &e : entries) {
        const std::uint64_t used =
            sizeof(on_disk::BitmapDirectoryEntry) + e.extra_data.size() + e.name.size();
        if (!all_zero(sub(directory, e.position + used, e.encoded_size() - used)))
            findings_.add(Finding::bitmap_directory_padding, formatted("bitmap {}", quote(e.name)));
    }
}

namespace {

std::string words_for_table(const BitmapDirectoryEntry &entry)
{
    return formatted("bitmap {}, table at {:#x}", quote(entry.name),
                     entry.bitmap_table_offset.value);
}

}  // namespace

// What there is to find of it but for its table, which is there if so.
bool ImageWalk::is_followed(Place place, const BitmapDirectoryEntry &entry)
{
    if (entry.in_use())
        findings_.note_lazily([&] {
            return formatted(
                "bitmap {} is inconsistent (in_use): it was not stored when the image was "
                "last used",
                quote(entry.name));
        });
    const auto where = [&] { return words_for_table(entry); };
    if (entry.finding) {
        findings_.add_lazily(*entry.finding, where);
        switch (*entry.finding) {
        case Finding::bitmap_table_missing:
        case Finding::bitmap_table_unaligned:
        case Finding::bitmap_table_past_end:
        case Finding::bitmap_table_size_wrong: return false;
        default: break;
        }
    } else if (!entry.in_use() &&
               entry.bitmap_table_size !=
                   BitmapSize::of(header().disk_size(), entry.granularity_bits, geometry_)
                       .table_entries) {
        findings_.add_lazily(Finding::bitmap_table_size_wrong, where);
    }
    const std::uint64_t bytes = std::uint64_t(entry.bitmap_table_size) * 8;
    return bytes == 0 || is_inside(entry.bitmap_table_offset, bytes) ||
           lost(place, entry.bitmap_table_offset, Finding::bitmap_table_past_end, where);
}

Result<void> ImageWalk::walk_bitmap_table(const TablePart &part, const BitmapDirectoryEntry &entry)
{
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto at = [&] {
            return formatted("{}, entry {}: {:#x}", words_for_table(entry), part.index + i, raw);
        };
        const auto decoded = decode_bitmap_table_entry(raw, geometry_);
        if (!decoded)
            findings_.add_lazily(geometry_.is_aligned(HostOffset(raw & entry_offset_mask))
                                     ? Finding::bitmap_table_entry_reserved_bits
                                     : Finding::bitmap_table_entry_unaligned,
                                 at);
        else if (decoded->has_cluster())
            count({Place::Kind::word, part.offset + i * 8}, decoded->data, geometry_.cluster_size(),
                  Use::sole, Finding::bitmap_data_past_end, at, part.times);
        return {};
    };
    return for_each_entry(store_, table_buffer_, part.offset.value, part.entries, 8, visit);
}

}  // namespace qcow2
