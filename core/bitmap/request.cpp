// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/request.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/bitmap/operations.h"
#include "core/format/bitmap_table.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

Result<void> check_existing(const BitmapRequest &request, const Image &image, const BitmapDirectory &directory,
                            const BitmapDirectoryEntry &entry)
{
    const bool recovered = request.recover_all_dirty && is_recoverable(directory, entry, image);
    if (entry.in_use() && !recovered)
        return Error(Errc::busy, "it is inconsistent (in_use: it was not stored when the image was last used); "
                                 "bitmap-recover=all-dirty makes it valid again with all bits set, 'qemu-img "
                                 "bitmap --remove' makes room for a new one");
    if (!entry.enabled())
        return Error(Errc::busy, "it is disabled, perhaps the frozen record of a backup; 'qemu-img bitmap "
                                 "--enable' enables it");
    if (entry.finding && !entry.in_use())
        return finding(*entry.finding);
    return {};
}

}  // namespace

Result<void> check_request(const BitmapRequest &request, const Image &image, const BitmapDirectory &directory)
{
    const Geometry &geometry = image.geometry();
    const std::uint32_t granularity_bits =
        request.granularity_bits.value_or(default_granularity_bits(geometry));
    const std::uint64_t disk_size = std::max(image.disk_size(), request.disk_size_min);
    std::size_t absent = 0;
    for (const std::string &name : request.names) {
        const std::string context = "bitmap=" + quote(name);
        if (geometry.version < 3)
            return Error(Errc::unsupported,
                         context + ": version 2 images cannot keep bitmaps; 'qemu-img amend "
                                   "-o compat=1.1' makes it version 3");
        if (const BitmapDirectoryEntry *entry = directory.find(name)) {
            TRY(check_existing(request, image, directory, *entry).in(context));
        } else if (directory.has_for_qemu(name)) {
            return Error(Errc::exists, context + ": there is a bitmap whose name has a NUL behind that, which "
                                                 "QEMU takes for the same name");
        } else {
            TRY(check_bitmap_limits(disk_size, granularity_bits, geometry).in(context));
            ++absent;
        }
    }
    if (directory.entries.size() + absent > limits::bitmaps_max)
        return Error(Errc::invalid, "an image cannot have more than 65535 bitmaps");
    if (absent != 0) {
        const auto change = [](HeaderArea &area) {
            area.extensions = with_bitmaps_extension(area.extensions, BitmapsExtension());
            area.header.autoclear_features |= autoclear::bitmaps;
        };
        TRY(image.header().check(change).in("bitmap=: no room for the bitmaps extension"));
    }
    return {};
}

bool asks_for_change(const BitmapRequest &request, const Image &image, const BitmapDirectory &directory)
{
    return (request.recover_all_dirty && has_recoverable(directory, image)) ||
           std::ranges::any_of(request.names, [&](const auto &name) { return !directory.find(name); });
}

Result<void> fulfil(const BitmapRequest &request, Image &image)
{
    const BitmapDirectory directory = TRY(BitmapDirectory::load(image));
    TRY(check_request(request, image, directory));
    const bool recover = request.recover_all_dirty && has_recoverable(directory, image);
    std::vector<NewBitmap> absent;
    for (const std::string &name : request.names)
        if (!directory.find(name))
            absent.push_back({name, request.granularity_bits});
    const Result<void> done = recover_and_add(image, recover, absent);
    if (done || !recover || done.error().code != Errc::no_space)
        return done;
    TRY(recover_in_place(image));
    const BitmapDirectory recovered = TRY(BitmapDirectory::load(image));
    for (const std::string &name : request.names)
        if (const BitmapDirectoryEntry *entry = recovered.find(name); entry && entry->in_use())
            return Error(done.error())
                .in("bitmap=" + quote(name) + ": it cannot be made valid again");
    return add_bitmaps(image, absent);
}

}  // namespace qcow2
