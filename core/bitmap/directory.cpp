// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/directory.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/format/bitmap_table.h"
#include "core/format/findings.h"
#include "core/format/table_entry.h"

namespace qcow2 {

std::string words_for_bitmap(std::string_view name) { return formatted("bitmap {}", quote(name)); }

Error no_such_bitmap(std::string_view name)
{
    return Error(Errc::not_found, "there is no {}", words_for_bitmap(name));
}

Result<BitmapDirectory> BitmapDirectory::load(Image &image)
{
    BitmapDirectory directory;
    const HeaderArea area = image.header().area();
    const Extension *extension = area.find(ExtensionType::bitmaps);
    const bool bit = area.header.autoclear_features & autoclear::bitmaps;
    if (area.header.version < 3) {
        if (extension)
            directory.stale_ =
                "the bitmaps of a version 2 image cannot be trusted; they are left alone";
        return directory;
    }
    if (bit && !extension)
        return finding(Finding::bitmaps_extension_missing);
    if (!extension)
        return directory;
    if (bit)
        return load(image, *extension);
    directory.stale_ =
        "the bitmaps of the image are out of date (autoclear bit 0 is clear: a program "
        "that does not know bitmaps has changed the image)";
    auto old = load(image, *extension);
    if (old)
        directory.out_of_date_ = OutOfDate{std::move(old->entries), {}};
    else if (old.error().code == Errc::io)
        return std::move(old).error();
    else
        directory.out_of_date_ = OutOfDate{{}, std::move(old).error()};
    return directory;
}

Result<BitmapDirectory> BitmapDirectory::load(Image &image, const Extension &extension)
{
    BitmapDirectory directory;
    const Geometry &geometry = image.geometry();
    const BitmapsExtension bitmaps = TRY(decode_bitmaps_extension(extension.data, geometry));
    const std::string where =
        formatted("bitmap directory at {:#x}", bitmaps.bitmap_directory_offset.value);
    if (!fits(bitmaps.bitmap_directory_offset.value, bitmaps.bitmap_directory_size,
              image.store().size()))
        return finding(Finding::bitmap_directory_past_end, where);
    Buffer bytes(bitmaps.bitmap_directory_size);
    TRY(image.store().read(bitmaps.bitmap_directory_offset.value, bytes).in(where));
    directory.entries = TRY(decode_bitmap_directory(bytes, bitmaps.nb_bitmaps, geometry).in(where));
    directory.offset_ = bitmaps.bitmap_directory_offset;
    directory.clusters_ = {geometry.cluster_of(directory.offset_),
                           geometry.clusters_for(bytes.size())};
    for (const BitmapDirectoryEntry &entry : directory.entries)
        if (entry.in_use() && entry.enabled() && !entry.finding && TRY(has_mark(image, entry)))
            directory.given_up_.insert(entry.position);
    return directory;
}

Result<bool> BitmapDirectory::has_mark(Image &image, const BitmapDirectoryEntry &entry)
{
    const Geometry &geometry = image.geometry();
    const auto size = BitmapSize::of(image.disk_size(), entry.granularity_bits, geometry);
    const std::uint64_t last = entry.bitmap_table_offset.value + (size.table_entries - 1) * 8;
    const bool has_tail = size.bits % (geometry.cluster_size() * 8) != 0;
    if (!has_tail || entry.bitmap_table_size != size.table_entries ||
        !fits(last, 8, image.store().size()))
        return false;
    Buffer word(8);
    TRY(image.store()
            .read(last, word)
            .in("bitmap table at {:#x}", entry.bitmap_table_offset.value));
    return load_be64(word.data()) == BitmapTableEntry{HostOffset(), true}.raw();
}

const BitmapDirectoryEntry *BitmapDirectory::find_for_qemu(std::string_view name) const
{
    const auto found = std::ranges::find(entries, name, &BitmapDirectoryEntry::name_for_qemu);
    return found == entries.end() ? nullptr : &*found;
}

const BitmapDirectoryEntry *BitmapDirectory::find(std::string_view name) const
{
    const auto found = std::ranges::find(entries, name, &BitmapDirectoryEntry::name);
    return found == entries.end() ? nullptr : &*found;
}

BitmapDirectoryEntry *BitmapDirectory::find(std::string_view name)
{
    return const_cast<BitmapDirectoryEntry *>(std::as_const(*this).find(name));
}

Result<void> BitmapDirectory::check_up_to_date() const
{
    return out_of_date_ ? Error(Errc::busy, "{}; {}", stale_, out_of_date_cure) : Result<void>();
}

Result<BitmapDirectoryEntry *> BitmapDirectory::existing(std::string_view name)
{
    TRY(check_up_to_date().in(words_for_bitmap(name)));
    BitmapDirectoryEntry *entry = find(name);
    return entry ? Result<BitmapDirectoryEntry *>(entry) : no_such_bitmap(name);
}

}  // namespace qcow2
