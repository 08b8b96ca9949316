// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/new_bitmap_directory.h"

#include "core/format/limits.h"

namespace qcow2 {

Result<ImageHeader::Change> write_bitmap_directory(Aside &aside,
                                                   std::vector<BitmapDirectoryEntry> entries,
                                                   HostRun old)
{
    aside.replace(old);
    if (entries.empty())
        return ImageHeader::Change([](HeaderArea &area) {
            area.extensions = with_bitmaps_extension(area.extensions, std::nullopt);
            area.header.autoclear_features &= ~autoclear::bitmaps;
        });
    if (entries.size() > limits::bitmaps_max)
        return Error(Errc::invalid, "an image cannot have more than 65535 bitmaps");
    Buffer bytes = encode_bitmap_directory(entries);
    if (bytes.size() > limits::bitmap_directory_bytes_max)
        return Error(Errc::invalid, "the bitmap directory would be larger than 64 MiB");
    BitmapsExtension bitmaps;
    bitmaps.nb_bitmaps = static_cast<std::uint32_t>(entries.size());
    bitmaps.bitmap_directory_size = bytes.size();
    bitmaps.bitmap_directory_offset = TRY(aside.write(std::move(bytes)).in("bitmap directory"));
    return ImageHeader::Change([bitmaps](HeaderArea &area) {
        area.extensions = with_bitmaps_extension(area.extensions, bitmaps);
        area.header.autoclear_features |= autoclear::bitmaps;
    });
}

}  // namespace qcow2
