// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk: bitmaps and snapshots changed together, while the disk is served.
//
// All steps are planned in memory; what they need is written aside; then one
// write of the header sector makes all of it true (H1). A snapshot changes the
// mapping, so before it the disk is settled, and after it the image is opened anew.
// Bitmaps alone do not: a new Tracker over the same image takes over what the old one
// knows of those that are as they were, and of the others reads what a restart would
// find. So only those must be exact in the file that are read there: the longer that
// took, the longer everybody would wait, and most of it is done before the gate is closed.

#include <algorithm>
#include <new>

#include "core/base/log.h"
#include "core/bitmap/bitmap_data.h"
#include "core/bitmap/tracker.h"
#include "core/disk.h"
#include "core/image/image.h"
#include "core/structure/snapshot_change.h"

namespace qcow2 {

namespace {

BitmapState state_of(const BitmapDirectoryEntry &entry,
                     const std::optional<Error> &why_not_followed)
{
    BitmapState state;
    state.name = entry.name;
    state.granularity = entry.finding ? 0 : entry.granularity();
    state.enabled = entry.enabled();
    state.inconsistent = entry.in_use();
    if (entry.enabled() && why_not_followed)
        state.why_not_tracked = why_not_followed->what;
    return state;
}

// The bitmaps that a backup must have for itself, if it runs. To be enabled does no harm.
std::vector<std::string> changed_by(const BitmapStep &step)
{
    if (const auto *merge = std::get_if<MergeBitmaps>(&step))
        return {merge->target};
    if (const auto *remove = std::get_if<RemoveBitmap>(&step))
        return {remove->name};
    if (const auto *clear = std::get_if<ClearBitmap>(&step))
        return {clear->name};
    if (const auto *disable = std::get_if<DisableBitmap>(&step))
        return {disable->name};
    return {};
}

// The bitmaps whose bits are read in the file.
std::vector<std::string> read_by(const std::vector<DiskStep> &steps)
{
    std::vector<std::string> names;
    for (const DiskStep &step : steps) {
        const auto *bitmap_step = std::get_if<BitmapStep>(&step);
        const auto *merge = bitmap_step ? std::get_if<MergeBitmaps>(bitmap_step) : nullptr;
        const auto *disable = bitmap_step ? std::get_if<DisableBitmap>(bitmap_step) : nullptr;
        if (disable)
            names.push_back(disable->name);
        if (!merge)
            continue;
        names.push_back(merge->target);
        names.insert(names.end(), merge->sources.begin(), merge->sources.end());
    }
    return names;
}

bool makes_snapshot(const std::vector<DiskStep> &steps)
{
    return std::ranges::any_of(
        steps, [](const DiskStep &step) { return std::holds_alternative<MakeSnapshot>(step); });
}

}  // namespace

Result<std::shared_ptr<const Backup>> Disk::change_together(const std::vector<DiskStep> &steps)
{
    // What is long goes first, and keeps nobody waiting.
    NewBackup backup = TRY(prepare_backup(steps));
    if (!backup.is_alone)
        TRY(store_beforehand(steps));
    Exclusive alone(gate_);
    TRY(readable());
    if (why_read_only_)
        return *why_read_only_;
    if (!is_begin_alone(steps))
        TRY(change_together_alone(steps));
    if (!backup.request)
        return std::shared_ptr<const Backup>();
    return backups_.begin(*backup.request, *tracker_, image_->disk_size(),
                          std::move(backup.scratch));
}

// What is flushed now need not be so while everybody waits.
Result<void> Disk::store_beforehand(const std::vector<DiskStep> &steps)
{
    if (makes_snapshot(steps))
        return restructure_beforehand(bits_after(steps));
    {
        Passage passage(gate_);
        TRY(readable());
        if (why_read_only_)
            return {};
        look_for_free();
        if (settled_)
            return {};
    }
    // Each time requests go on meanwhile, but a shorter time.
    const Cooling cooling{.all = true, .names = read_by(steps)};
    for (int times = 0; times < 3; ++times)
        cool_beforehand(cooling);
    Passage passage(gate_);
    TRY(readable());
    return why_read_only_ ? Result<void>() : image_->flush();
}

Result<void> Disk::change_together_alone(const std::vector<DiskStep> &steps)
{
    if (makes_snapshot(steps)) {
        TRY(settle_before_restructuring(bits_after(steps)));
    } else {
        TRY(writable_alone());
        TRY(tracker_->store(read_by(steps)));
        TRY(take_back_alone());
        if (why_read_only_)
            return *why_read_only_;
    }
    BitmapChanges bitmaps = TRY(BitmapChanges::of(*image_));
    const MakeSnapshot *snapshot = nullptr;
    std::vector<std::string> taken;  // by the backup that begins
    for (const DiskStep &step : steps)
        TRY(plan(bitmaps, step, taken, snapshot));
    if (!snapshot)
        return change_bitmaps_alone(bitmaps);
    SwitchCompanion change_bitmaps;
    if (!bitmaps.empty())
        change_bitmaps = [&](Aside &aside, std::uint64_t) { return bitmaps.prepare(aside); };
    // What changes bitmaps has read them: no bit may come.
    return change_structure_ajar(change_bitmaps ? Meanwhile::reads : Meanwhile::overwrites,
                                 [&](Image &image, const BecomeAlone &become_alone) {
                                     return qcow2::create_snapshot(image, snapshot->snapshot,
                                                                   change_bitmaps, become_alone);
                                 });
}

Result<void> Disk::plan(BitmapChanges &bitmaps, const DiskStep &step,
                        std::vector<std::string> &taken, const MakeSnapshot *&snapshot) const
{
    if (const auto *begin = std::get_if<BeginBackup>(&step)) {
        taken = begin->request.bitmaps;
        return plan_backup(bitmaps, begin->request);
    }
    if (const auto *make = std::get_if<MakeSnapshot>(&step)) {
        if (snapshot)
            return Error(Errc::unsupported, "only one snapshot can be made at an instant");
        snapshot = make;
        return {};
    }
    const BitmapStep &bitmap_step = std::get<BitmapStep>(step);
    for (const std::string &name : changed_by(bitmap_step)) {
        TRY(backups_.check_not_busy(name));
        if (std::ranges::find(taken, name) != taken.end())
            return Error(Errc::busy, "{} is in use by the backup that begins",
                         words_for_bitmap(name));
    }
    return bitmaps.add(bitmap_step);
}

Result<void> Disk::change_bitmaps_alone(BitmapChanges &changes)
{
    if (changes.empty())
        return {};
    try {
        TRY(settled_ ? give_back_after(changes.commit()) : changes.commit());
        return open_bitmaps_anew(changes.kept_tables());
    } catch (...) {
        // The file may have changed all the same, and the old tracker have lost its bitmaps.
        [[maybe_unused]] const auto opened = open_anew();
        throw;
    }
}

// The file has changed: what fails here leaves no tracker that could be used.
Result<void> Disk::open_bitmaps_anew(const std::vector<std::optional<std::size_t>> &kept)
{
    auto tracker = TRY(make_tracker(*image_, store_, options_));
    if (const Result<void> opened = tracker->open_after(*tracker_, kept); !opened) {
        log_debug("bitmaps could not be opened over the open image: {}", opened.error().what);
        return open_anew();
    }
    tracker_ = std::move(tracker);
    backups_.attach(*tracker_);
    why_read_only_ = why_read_only_of(*image_, *tracker_);
    if (why_read_only_)
        log_warning("the disk is served read-only from now on: {}", why_read_only_->what);
    else if (serving_)
        make_room_for_bits();
    return {};
}

Result<std::vector<BitmapState>> Disk::bitmap_states(bool how_much)
{
    Passage passage(gate_);
    TRY(readable());
    std::vector<BitmapState> states;
    const std::vector<BitmapDirectoryEntry> entries = tracker_->entries();
    const std::vector<EnabledBitmap *> tracked = tracker_->tracked();
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const BitmapDirectoryEntry &entry = entries[i];
        BitmapState &state = states.emplace_back(state_of(entry, tracker_->why_not_followed(i)));
        state.busy = !backups_.check_not_busy(entry.name);
        if (!how_much)
            continue;
        if (EnabledBitmap *bitmap = tracked[i]) {
            const std::uint64_t dirty = TRY(bitmap->bits.count());
            state.dirty_bytes = std::min(dirty * bitmap->granularity, image_->disk_size());
            state.extra_bytes = bitmap->bits.extra_bits() * bitmap->granularity;
        } else if (!entry.in_use() && !entry.finding && !tracker_->why_not_followed(i)) {
            state.dirty_bytes = TRY(how_dirty(*image_, entry)).bytes;
        }
    }
    return states;
}

}  // namespace qcow2
