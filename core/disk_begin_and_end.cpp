// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk: how a backup begins and ends.
//
// A backup begins within a closed gate, so no request is under way, and without a
// read or write: what has to be read (the pages of its bitmaps) or made (a bitmap
// that is not there) is so before. What ends it well is that the records of what has
// changed take the place of the bits; the file follows when the disk is settled, as
// ever: until then it covers too much, which is no lie (F4).

#include <algorithm>

#include "core/base/log.h"
#include "core/bitmap/tracker.h"
#include "core/disk.h"
#include "core/image/image.h"

namespace qcow2 {

Result<std::shared_ptr<const Backup>> Disk::begin_backup(const BackupRequest &request)
{
    return change_together({BeginBackup{request}});
}

// No gate is closed. The pages of its bitmaps are read, that they need not be later.
Result<Disk::NewBackup> Disk::prepare_backup(const std::vector<DiskStep> &steps)
{
    NewBackup backup;
    for (const DiskStep &step : steps)
        if (const auto *begin = std::get_if<BeginBackup>(&step)) {
            if (backup.request)
                return Error(
                    Errc::unsupported,
                    "only one backup can begin at an instant; it can have several bitmaps");
            backup.request = &begin->request;
        }
    if (!backup.request)
        return backup;
    Passage passage(gate_);
    TRY(readable());
    if (why_read_only_)
        return *why_read_only_;
    if (backups_.find(backup.request->id))
        return Error(Errc::exists, "backup {} is running already", quote(backup.request->id));
    for (const std::string &name : backup.request->bitmaps) {
        TRY(backups_.check_not_busy(name));
        if (EnabledBitmap *bitmap = tracker_->tracked(name))
            TRY(bitmap->bits.load_all().in(words_for_bitmap(name)));
    }
    backup.is_alone = is_begin_alone(steps);
    backup.scratch = TRY(Backups::prepare(*backup.request, options_.scratch, image_->disk_size()));
    return backup;
}

// Nothing in the file has to change for that. Inside the gate or alone.
bool Disk::is_begin_alone(const std::vector<DiskStep> &steps) const
{
    return std::ranges::all_of(steps, [this](const DiskStep &step) {
        const auto *begin = std::get_if<BeginBackup>(&step);
        return begin &&
               std::ranges::all_of(begin->request.bitmaps, [this](const std::string &name) {
                   return tracker_->tracked(name);
               });
    });
}

// What the bitmaps must be when all steps are done. One that is not there, or says nothing
// because it is inconsistent, is made for a full backup: all dirty, for nothing has been
// saved; its record takes over if that succeeds.
Result<void> Disk::plan_backup(BitmapChanges &bitmaps, const BackupRequest &request) const
{
    for (const std::string &name : request.bitmaps) {
        TRY(backups_.check_not_busy(name));
        const BitmapDirectoryEntry *entry = bitmaps.find(name);
        const std::string words = words_for_bitmap(name);
        if (entry && !entry->enabled())
            return Error(Errc::busy, "{} is disabled: it does not see what changes", words);
        if (!entry && request.incremental)
            return Error(Errc::not_found, "there is no {} that says what has changed", words);
        if (entry && !entry->in_use())
            continue;
        if (request.incremental)
            return Error(Errc::busy, "{} is inconsistent: it cannot say what has changed", words);
        NewBitmap bitmap{.name = name, .all_dirty = true};
        if (entry) {
            bitmap.granularity_bits = entry->granularity_bits;
            TRY(bitmaps.add(RemoveBitmap{name}));
        }
        TRY(bitmaps.add(AddBitmap{bitmap}));
    }
    return {};
}

Result<void> Disk::end_backup(std::string_view id, bool success)
{
    std::shared_ptr<const Backup> ended;
    {
        Passage passage(gate_);
        ended = backups_.find(id);
        if (!ended)
            return Error(Errc::not_found, "no backup {} is running", quote(id));
        if (success)
            for (const FrozenBitmap &frozen : ended->bitmaps)
                if (EnabledBitmap *bitmap = tracker_ ? tracker_->tracked(frozen.name) : nullptr)
                    TRY(bitmap->bits.load_all().in(words_for_bitmap(frozen.name)));
    }
    {
        Exclusive alone(gate_);
        if (!backups_.find(id))
            return Error(Errc::not_found, "backup {} has just ended", quote(id));
        if (const auto reason = ended->disk->broken(); success && reason)
            return Error(Errc::busy, "backup {} is broken, and cannot succeed: {}", quote(id),
                         *reason);
        if (success) {
            TRY(readable());
            TRY(backups_.rotate(*ended, *tracker_));
            settled_ = false;
        }
        backups_.remove(*ended, tracker_.get());
    }
    backups_.frozen().thaw(*ended->disk);
    if (!success || ended->bitmaps.empty())
        return {};
    // What is not dirty any more goes out of the file.
    cool_beforehand({.all = true});
    return {};
}

// Without success. One that somebody else has ended meanwhile is none any more.
void Disk::end_all_backups()
{
    for (const auto &backup : backups())
        if (const auto ended = end_backup(backup->id, false); !ended)
            log_debug(ended.error().what);
}

std::vector<std::shared_ptr<const Backup>> Disk::backups() const
{
    Passage passage(gate_);
    return backups_.all();
}

std::shared_ptr<const Backup> Disk::backup(std::string_view id) const
{
    Passage passage(gate_);
    return backups_.find(id);
}

Result<void> Disk::check_no_backup(const std::string &what) const
{
    const Backup *running = backups_.first_true();
    return running ? Error(Errc::busy, "{} while backup {} is running", what, quote(running->id))
                   : Result<void>();
}

}  // namespace qcow2
