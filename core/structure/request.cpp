// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/request.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/format/bitmap_table.h"
#include "core/format/findings.h"
#include "core/format/limits.h"
#include "core/structure/operations.h"

namespace qcow2 {

namespace {

Result<void> check_existing(const BitmapRequest &request, const BitmapDirectory &directory,
                            const RecoverableBitmaps &recoverable,
                            const BitmapDirectoryEntry &entry)
{
    const bool recovered =
        (request.recover_all_dirty || directory.given_up(entry)) && recoverable.count(&entry) != 0;
    if (entry.in_use() && !recovered)
        return Error(Errc::busy,
                     "it is inconsistent (in_use: it was not stored when the image was last used); "
                     "bitmap-recover=all-dirty makes it valid again with all bits set, 'qemu-img "
                     "bitmap --remove' makes room for a new one");
    if (directory.out_of_date() && !recovered)
        return Error(Errc::busy,
                     "it is out of date, and cannot be made valid again: {}; "
                     "bitmap-remove-all=yes makes room for a new one",
                     entry.finding ? sentence_of(*entry.finding) : "another has its name");
    if (!entry.enabled())
        return Error(Errc::busy,
                     "it is disabled, perhaps the frozen record of a backup; 'qemu-img bitmap "
                     "--enable' enables it");
    if (entry.finding && !recovered)
        return finding(*entry.finding);
    return {};
}

// The one that has the name; of those that are out of date, too.
const BitmapDirectoryEntry *find(const BitmapDirectory &directory, const std::string &name)
{
    if (!directory.out_of_date())
        return directory.find(name);
    const auto &entries = directory.out_of_date()->entries;
    const auto found = std::ranges::find(entries, name, &BitmapDirectoryEntry::name);
    return found == entries.end() ? nullptr : &*found;
}

bool has_for_qemu(const BitmapDirectory &directory, const std::string &name)
{
    const auto &entries =
        directory.out_of_date() ? directory.out_of_date()->entries : directory.entries;
    return std::ranges::find(entries, name, &BitmapDirectoryEntry::name_for_qemu) != entries.end();
}

// Those that are to be made. Where nobody can read what there was, it may have
// been one of them: all of it may have changed.
std::vector<NewBitmap> absent_of(const BitmapRequest &request, const BitmapDirectory &directory)
{
    const bool unreadable = directory.out_of_date() && directory.out_of_date()->unreadable;
    std::vector<NewBitmap> absent;
    for (const std::string &name : request.names)
        if (!find(directory, name))
            absent.push_back({.name = name,
                              .granularity_bits = request.granularity_bits,
                              .all_dirty = unreadable});
    return absent;
}

}  // namespace

Result<void> check_request(const BitmapRequest &request, const Image &image,
                           const BitmapDirectory &directory)
{
    const Geometry &geometry = image.geometry();
    const std::uint32_t granularity_bits =
        request.granularity_bits.value_or(default_granularity_bits(geometry));
    const std::uint64_t disk_size = std::max(image.disk_size(), request.disk_size_min);
    const bool out_of_date = directory.out_of_date().has_value();
    const RecoverableBitmaps recoverable =
        request.names.empty() ? RecoverableBitmaps() : recoverable_bitmaps(directory, image);
    for (const std::string &name : request.names) {
        const std::string context = formatted("bitmap={}", quote(name));
        if (geometry.version < 3)
            return Error(Errc::unsupported,
                         "{}: version 2 images cannot keep bitmaps; 'qemu-img amend "
                         "-o compat=1.1' makes it version 3",
                         context);
        if (out_of_date && !request.recover_all_dirty)
            return Error(Errc::busy, "{}: {}; {}", context, directory.stale(), out_of_date_cure);
        if (const BitmapDirectoryEntry *entry = find(directory, name))
            TRY(check_existing(request, directory, recoverable, *entry).in(context));
        else if (has_for_qemu(directory, name))
            return Error(Errc::exists,
                         "{}: there is a bitmap whose name has a NUL behind that, which "
                         "QEMU takes for the same name",
                         context);
        else
            TRY(check_bitmap_limits(disk_size, granularity_bits, geometry).in(context));
    }
    const std::size_t absent = absent_of(request, directory).size();
    const std::size_t kept =
        out_of_date ? directory.out_of_date()->entries.size() : directory.entries.size();
    if (kept + absent > limits::bitmaps_max)
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

std::vector<std::string> announcements(const BitmapRequest &request, const Image &image,
                                       const BitmapDirectory &directory)
{
    std::vector<std::string> lines;
    if (request.granularity_bits) {
        const std::uint64_t asked = std::uint64_t(1) << *request.granularity_bits;
        for (const std::string &name : request.names)
            if (const auto *entry = find(directory, name); entry && entry->granularity() != asked)
                lines.push_back(formatted("{} keeps its granularity of {} bytes; "
                                          "bitmap-granularity={} is for bitmaps that are made",
                                          words_for_bitmap(name), entry->granularity(), asked));
    }
    for (const NewBitmap &made : absent_of(request, directory))
        if (made.all_dirty)
            lines.push_back(formatted("{} is made with all bits set: what there was is out of "
                                      "date, and cannot be read",
                                      words_for_bitmap(made.name)));
        else if (image.has_content())
            lines.push_back(formatted("{} is not there: it is made, empty, and knows nothing of "
                                      "what was written before",
                                      words_for_bitmap(made.name)));
    return lines;
}

bool asks_for_change(const BitmapRequest &request, const Image &image,
                     const BitmapDirectory &directory)
{
    return (request.recover_all_dirty && has_recoverable(directory, image)) ||
           !absent_of(request, directory).empty();
}

Result<void> fulfil(const BitmapRequest &request, Image &image)
{
    const BitmapDirectory directory = TRY(BitmapDirectory::load(image));
    TRY(check_request(request, image, directory));
    const bool recover =
        request.recover_all_dirty && (directory.out_of_date() || has_recoverable(directory, image));
    const std::vector<NewBitmap> absent = absent_of(request, directory);
    const Result<void> done = recover_and_add(image, recover, absent);
    if (done || !recover || done.error().code != Errc::no_space)
        return done;
    if (directory.out_of_date() && !request.names.empty())
        return done;
    TRY(recover_in_place(image));
    const BitmapDirectory recovered = TRY(BitmapDirectory::load(image));
    for (const std::string &name : request.names)
        if (const BitmapDirectoryEntry *entry = recovered.find(name);
            entry && entry->in_use() && !recovered.given_up(*entry))
            return Error(done.error()).in("bitmap={}: it cannot be made valid again", quote(name));
    return add_bitmaps(image, absent);
}

}  // namespace qcow2
