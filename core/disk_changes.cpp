// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk: bitmaps and snapshots changed together, while the disk is served.
//
// All steps are planned in memory; what they need is written aside; then one
// write of the header sector makes all of it true (H1). A snapshot changes the
// mapping, so after it the image is opened anew. Bitmaps alone do not: a new
// Tracker over the same image takes over what the old one knows of those that are
// as they were, and of the others reads what a restart would find.

#include <algorithm>
#include <new>

#include "core/base/log.h"
#include "core/bitmap/tracker.h"
#include "core/disk.h"
#include "core/image/image.h"
#include "core/image/snapshot_change.h"

namespace qcow2 {

namespace {

BitmapState state_of(const BitmapDirectoryEntry &entry, const std::optional<Error> &why_not_followed)
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

}  // namespace

Result<void> Disk::change_together(const std::vector<DiskStep> &steps)
{
    // What is long goes first, and keeps nobody waiting.
    if (!settled())
        TRY(flush());
    Exclusive alone(gate_);
    return change_together_alone(steps);
}

Result<void> Disk::change_together_alone(const std::vector<DiskStep> &steps)
{
    TRY(settle_before_restructuring());
    BitmapChanges bitmaps = TRY(BitmapChanges::of(*image_));
    const MakeSnapshot *snapshot = nullptr;
    for (const DiskStep &step : steps) {
        if (const auto *bitmap_step = std::get_if<BitmapStep>(&step)) {
            TRY(bitmaps.add(*bitmap_step));
            continue;
        }
        if (snapshot)
            return Error(Errc::unsupported, "only one snapshot can be made at an instant");
        snapshot = &std::get<MakeSnapshot>(step);
    }
    if (!snapshot)
        return change_bitmaps_alone(bitmaps);
    return change_structure([&](Image &image) {
        if (bitmaps.empty())
            return qcow2::create_snapshot(image, snapshot->snapshot);
        return qcow2::create_snapshot(image, snapshot->snapshot,
                                      [&](Aside &aside, std::uint64_t) { return bitmaps.prepare(aside); });
    });
}

Result<void> Disk::change_bitmaps_alone(BitmapChanges &changes)
{
    if (changes.empty())
        return {};
    try {
        TRY(changes.commit());
        if (const auto settled = image_->settle(); !settled)
            log_debug("after a change of bitmaps: " + settled.error().what);
        return open_bitmaps_anew();
    } catch (...) {
        // The file may have changed all the same, and the old tracker have lost its bitmaps.
        [[maybe_unused]] const auto opened = open_anew();
        throw;
    }
}

// The file has changed: what fails here leaves no tracker that could be used.
Result<void> Disk::open_bitmaps_anew()
{
    auto tracker = TRY(make_tracker(*image_, store_, options_));
    if (const Result<void> opened = tracker->open_after(*tracker_); !opened) {
        log_debug("bitmaps could not be opened over the open image: " + opened.error().what);
        return open_anew();
    }
    tracker_ = std::move(tracker);
    why_read_only_ = why_read_only_of(*image_, *tracker_);
    if (why_read_only_)
        log_warning("the disk is served read-only from now on: " + why_read_only_->what);
    else if (serving_)
        make_room_for_bits();
    return {};
}

Result<std::vector<BitmapState>> Disk::bitmap_states()
{
    Passage passage(gate_);
    TRY(readable());
    std::vector<BitmapState> states;
    const std::vector<BitmapDirectoryEntry> entries = tracker_->entries();
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const BitmapDirectoryEntry &entry = entries[i];
        BitmapState &state = states.emplace_back(state_of(entry, tracker_->why_not_followed(i)));
        if (EnabledBitmap *bitmap = tracker_->tracked(entry.name)) {
            TRY(bitmap->bits.load_all());
            state.dirty_bytes = std::min(bitmap->bits.count_precise() * bitmap->granularity, image_->disk_size());
            state.extra_bytes = bitmap->bits.extra_bits() * bitmap->granularity;
        } else if (!entry.in_use() && !entry.finding && !tracker_->why_not_followed(i)) {
            state.dirty_bytes = TRY(how_dirty(*image_, entry)).bytes;
        }
    }
    return states;
}

}  // namespace qcow2
