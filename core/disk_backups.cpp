// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/disk_backups.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/notice.h"
#include "core/bitmap/directory.h"
#include "core/bitmap/tracker.h"

namespace qcow2 {

namespace {

constexpr std::size_t id_bytes_max = 255;

// It stands in names of exports and in URIs, where other characters mean something.
bool is_good_id(const std::string &id)
{
    const auto good = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '_' || c == '-';
    };
    return !id.empty() && id.size() <= id_bytes_max && std::ranges::all_of(id, good);
}

Result<FrozenBitmap> freeze(EnabledBitmap &bitmap)
{
    TRY(bitmap.bits.load_all().in(words_for_bitmap(bitmap.name)));
    return FrozenBitmap{bitmap.name, bitmap.granularity,
                        std::make_shared<FrozenBits>(bitmap.bits.copy_precise())};
}

std::shared_ptr<const Needed> needed_for(const std::vector<FrozenBitmap> &bitmaps)
{
    std::vector<NeededAroundBits::Bits> bits;
    for (const FrozenBitmap &bitmap : bitmaps)
        bits.push_back({bitmap.granularity, bitmap.bits->size(),
                        [set = bitmap.bits](std::uint64_t bit, bool value) {
                            return value ? set->next_set(bit) : set->next_clear(bit);
                        }});
    return std::make_shared<NeededAroundBits>(std::move(bits));
}

}  // namespace

Result<std::unique_ptr<Scratch>> Backups::prepare(const BackupRequest &request, ScratchMaker *maker,
                                                  std::uint64_t disk_size)
{
    if (!is_good_id(request.id))
        return Error(Errc::invalid,
                     "the ID of a backup has 1 to 255 letters, digits, '.', '_' and '-', not {}",
                     quote(request.id));
    for (auto bitmap = request.bitmaps.begin(); bitmap != request.bitmaps.end(); ++bitmap)
        if (std::find(request.bitmaps.begin(), bitmap, *bitmap) != bitmap)
            return Error(Errc::invalid, "{} is named twice", words_for_bitmap(*bitmap));
    if (request.incremental && request.bitmaps.empty())
        return Error(Errc::invalid,
                     "an incremental backup needs a bitmap that says what has changed");
    if (!maker)
        return Error(Errc::unsupported,
                     "there is no place for what is overwritten during a backup");
    return maker->make(disk_size, request.scratch_bytes_max);
}

Result<std::shared_ptr<const Backup>> Backups::begin(const BackupRequest &request, Tracker &tracker,
                                                     std::uint64_t disk_size,
                                                     std::unique_ptr<Scratch> scratch)
{
    if (find(request.id))
        return Error(Errc::exists, "backup {} is running already", quote(request.id));
    const auto backup = std::make_shared<Backup>();
    backup->id = request.id;
    backup->incremental = request.incremental;
    backup->whole = request.whole || !request.incremental;
    backup->backing_file = request.backing_file;
    backup->backing_format = request.backing_format;
    Running running{backup, {}};
    std::vector<EnabledBitmap *> bitmaps;
    for (const std::string &name : request.bitmaps) {
        EnabledBitmap *bitmap = tracker.tracked(name);
        if (!bitmap)
            return Error(Errc::not_found, "{} is not there, or not kept true",
                         words_for_bitmap(name));
        TRY(check_not_busy(name));
        bitmaps.push_back(bitmap);
        const FrozenBitmap &frozen = backup->bitmaps.emplace_back(TRY(freeze(*bitmap)));
        running.rotations.push_back({name, std::make_shared<ChangesSince>(frozen.bits->size())});
        backup->dirty_bytes += frozen.bits->count() * frozen.granularity;
    }
    backup->dirty_bytes =
        request.bitmaps.empty() ? disk_size : std::min(backup->dirty_bytes, disk_size);
    running_.reserve(running_.size() + 1);
    FreezeRequest freeze{request.id, disk_size, std::move(scratch), nullptr, {}};
    if (!backup->whole)
        freeze.needed = needed_for(backup->bitmaps);
    freeze.on_broken = [id = request.id](const std::string &reason) {
        log_warning("backup {} is broken: {}", quote(id), reason);
        notify({Notice::Kind::backup_broken, id, reason});
    };
    // The last that can fail. This is the instant.
    backup->instant = std::chrono::system_clock::now();
    backup->disk = frozen_.freeze(std::move(freeze));
    for (std::size_t i = 0; i < bitmaps.size(); ++i)
        bitmaps[i]->since = running.rotations[i].since;
    running_.push_back(std::move(running));
    return running_.back().backup;
}

// A bitmap that was given up, or is not tracked any more, covers everything: it stays.
Result<void> Backups::rotate(const Backup &backup, Tracker &tracker)
{
    const Running &running = *this->running(backup.id);
    const auto rotates = [&](const Rotation &rotation) {
        const EnabledBitmap *bitmap = tracker.tracked(rotation.bitmap);
        return bitmap && bitmap->since == rotation.since && rotation.since->complete;
    };
    for (const Rotation &rotation : running.rotations)
        if (rotates(rotation))
            TRY(tracker.tracked(rotation.bitmap)
                    ->bits.load_all()
                    .in(words_for_bitmap(rotation.bitmap)));
    for (const Rotation &rotation : running.rotations)
        if (rotates(rotation))
            tracker.tracked(rotation.bitmap)->bits.replace_precise(rotation.since->bits);
        else
            log_warning(
                "{} is not rotated by backup {}: it could not be followed all the time, and keeps "
                "all its bits",
                words_for_bitmap(rotation.bitmap), quote(backup.id));
    return {};
}

void Backups::remove(const Backup &backup, Tracker *tracker)
{
    const auto running =
        std::ranges::find_if(running_, [&](const Running &r) { return r.backup.get() == &backup; });
    if (running == running_.end())
        return;
    for (const Rotation &rotation : running->rotations)
        if (EnabledBitmap *bitmap = tracker ? tracker->tracked(rotation.bitmap) : nullptr;
            bitmap && bitmap->since == rotation.since)
            bitmap->since.reset();
    running_.erase(running);
}

void Backups::attach(Tracker &tracker)
{
    for (Running &running : running_)
        for (Rotation &rotation : running.rotations)
            attach(rotation, tracker);
}

// Its size is another one if the disk has grown. What is new is clean in all bitmaps.
void Backups::attach(Rotation &rotation, Tracker &tracker)
{
    EnabledBitmap *bitmap = tracker.tracked(rotation.bitmap);
    if (!bitmap) {
        rotation.since->complete = false;
        return;
    }
    const std::uint64_t granules = bitmap->stored.size().bits;
    if (rotation.since->bits.size() != granules) {
        const auto since = std::make_shared<ChangesSince>(granules);
        since->bits.set_all_of(rotation.since->bits);
        since->complete = rotation.since->complete.load();
        rotation.since = since;
    }
    bitmap->since = rotation.since;
}

const Backups::Running *Backups::running(std::string_view id) const
{
    for (const Running &running : running_)
        if (running.backup->id == id)
            return &running;
    return nullptr;
}

std::shared_ptr<const Backup> Backups::find(std::string_view id) const
{
    const Running *found = running(id);
    return found ? found->backup : nullptr;
}

std::vector<std::shared_ptr<const Backup>> Backups::all() const
{
    std::vector<std::shared_ptr<const Backup>> backups;
    for (const Running &running : running_)
        backups.push_back(running.backup);
    return backups;
}

const Backup *Backups::first_true() const
{
    for (const Running &running : running_)
        if (!running.backup->disk->broken())
            return running.backup.get();
    return nullptr;
}

Result<void> Backups::check_not_busy(const std::string &bitmap) const
{
    for (const Running &running : running_)
        for (const Rotation &rotation : running.rotations)
            if (rotation.bitmap == bitmap)
                return Error(Errc::busy,
                             "{} is in use by backup {}; it can be changed when that has ended",
                             words_for_bitmap(bitmap), quote(running.backup->id));
    return {};
}

}  // namespace qcow2
