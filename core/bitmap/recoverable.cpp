// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/recoverable.h"

#include <optional>
#include <string_view>

#include "core/format/bitmap_table.h"

namespace qcow2 {

namespace {

// As the entry would be; nullopt if it would not be sound even then.
std::optional<BitmapDirectoryEntry> recovered(const BitmapDirectoryEntry &entry, const Image &image)
{
    const Geometry &geometry = image.geometry();
    BitmapDirectoryEntry e = entry;
    e.flags &= ~bitmap_flags::in_use;
    if (!check_bitmap_limits(image.disk_size(), e.granularity_bits, geometry))
        return std::nullopt;
    // Another table, wherever; then whatever is wrong lies in what is kept.
    e.bitmap_table_offset = geometry.offset_of(HostCluster(1));
    e.bitmap_table_size = 1;
    std::vector<BitmapDirectoryEntry> alone = {e};
    const auto decoded = decode_bitmap_directory(encode_bitmap_directory(alone), 1, geometry);
    if (!decoded || decoded->front().finding)
        return std::nullopt;
    return e;
}

}  // namespace

// Of one name only one may be valid. What is out of date is so as a whole.
std::vector<RecoverableBitmap> list_recoverable(const BitmapDirectory &directory,
                                                const Image &image, Recoverable which)
{
    std::vector<RecoverableBitmap> found;
    const bool out_of_date = directory.out_of_date().has_value();
    const auto &entries = out_of_date ? directory.out_of_date()->entries : directory.entries;
    std::unordered_set<std::string_view> names;
    for (const BitmapDirectoryEntry &entry : entries)
        if (!out_of_date && !entry.in_use())
            names.insert(entry.name);
    for (const BitmapDirectoryEntry &entry : entries) {
        if (!out_of_date && !entry.in_use())
            continue;
        if (which == Recoverable::given_up && !directory.given_up(entry))
            continue;
        auto as_it_would_be = recovered(entry, image);
        if (as_it_would_be && names.insert(entry.name).second)
            found.push_back({&entry, std::move(*as_it_would_be)});
    }
    return found;
}

RecoverableBitmaps recoverable_bitmaps(const BitmapDirectory &directory, const Image &image)
{
    RecoverableBitmaps found;
    for (const RecoverableBitmap &bitmap : list_recoverable(directory, image, Recoverable::all))
        found.insert(bitmap.entry);
    return found;
}

bool has_recoverable(const BitmapDirectory &directory, const Image &image)
{
    return !list_recoverable(directory, image, Recoverable::all).empty();
}

bool has_recoverable_given_up(const BitmapDirectory &directory, const Image &image)
{
    return !list_recoverable(directory, image, Recoverable::given_up).empty();
}

}  // namespace qcow2
