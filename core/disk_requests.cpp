// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk: requests of clients. All pass the gate, so that nothing of the structure changes
// under them, and all changes take one way, change(): the bitmaps first (B1, B2, B6), then
// what backups need of what was there (F1), then the image.

#include "core/bitmap/tracker.h"
#include "core/disk.h"
#include "core/disk_live.h"
#include "core/image/image.h"

namespace qcow2 {

namespace {

Result<bool> never_in_place() { return false; }

}  // namespace

// A disk may have shrunk since the client asked for its size.
Result<void> Disk::check_range(Range range) const
{
    TRY(readable());
    if (range.end > image_->disk_size() || range.begin > range.end)  // it goes round
        return Error(Errc::invalid, "the request ends at {:#x}, the disk at {:#x}", range.end,
                     image_->disk_size());
    return {};
}

Result<void> Disk::read(GuestOffset offset, MutableBytes bytes)
{
    Passage passage(gate_);
    TRY(check_range(Range::of(offset.value, bytes.size())));
    return image_->read(offset, bytes);
}

// Backups stand in the way of whoever needs room for a change (F2).
bool Disk::backups_take_room() const
{
    return options_.scratch && options_.scratch->shares_room() && backups_.frozen().any();
}

// What a backup has taken of the room of the image is the guest's: then it goes (F2), before
// the change is refused, and before a bitmap is given up for lack of room (B7).
template <class Place, class Overwrite, class Change>
Result<void> Disk::change(Range range, bool fua, Parts parts, Place place, Overwrite overwrite,
                          Change change)
{
    const auto place_without_backups = [&]() -> Result<void> {
        return backups_take_room() ? Error(Errc::no_space, "a backup takes the room") : place();
    };
    Result<void> done = change_inside(range, fua, parts, place_without_backups, overwrite, change);
    if (done || done.error().code != Errc::no_space || !backups_take_room())
        return done;
    backups_.frozen().break_all("the room that it takes is needed for a change of the disk");
    return change_inside(range, fua, parts, place, overwrite, change);
}

// Every change comes this way: first the bitmaps (B1, B6), then what backups need of
// what was there (F1), then the image. (While the gate is ajar: disk_ajar.cpp.)
template <class Place, class Overwrite, class Change>
Result<void> Disk::change_inside(Range range, bool fua, Parts parts, Place place,
                                 Overwrite overwrite, Change change)
{
    Passage passage(gate_);
    if (ajar_) {
        if (TRY(overwrite()))
            return {};
        passage.wait_until_open();
    }
    TRY(check_range(range));
    if (why_read_only_)
        return *why_read_only_;
    if (range.empty())
        return {};
    const Activity::Scope under_way(changes_);
    if (settled_.load())
        settled_ = false;
    if (image_->growth_is_held())
        TRY(image_->flush());
    TRY(tracker_->before_change(range, place));
    FrozenDisks &frozen = backups_.frozen();
    FrozenDisks::Waited waited;
    while (!range.empty()) {
        Range part = range;
        if (frozen.any() && parts == Parts::several)
            part.end = frozen.before_part(*inside_, range, waited);
        else if (frozen.any())
            frozen.before_change(*inside_, range);
        TRY(change(part));
        range.begin = part.end;
    }
    if (fua)
        TRY(image_->flush());
    return {};
}

Result<void> Disk::write(GuestOffset offset, Bytes bytes, bool fua)
{
    const Range range = Range::of(offset.value, bytes.size());
    return change(
        range, fua, Parts::whole, [&] { return image_->place_write(range); },
        [&] { return overwrite(offset, bytes, fua); },
        [&](Range) { return image_->write(offset, bytes); });
}

Result<void> Disk::zero(GuestOffset offset, std::uint64_t length, ZeroFlags flags)
{
    const Range range = Range::of(offset.value, length);
    if (flags.fast && !range.empty()) {
        Passage passage(gate_);
        TRY(check_range(range));
        if (!why_read_only_ && !TRY(image_->zero_is_fast(range, flags.may_unmap)))
            return Error(Errc::unsupported, "zeros would have to be written");
    }
    return change(
        range, flags.fua, Parts::several,
        [&] { return image_->place_zero(range, flags.may_unmap); }, never_in_place,
        [&](Range part) { return image_->zero(part, flags.may_unmap); });
}

Result<void> Disk::trim(GuestOffset offset, std::uint64_t length, bool fua)
{
    const Range range = Range::of(offset.value, length);
    return backups_.frozen().any() ? trim_parts(range, fua) : trim_all(range, fua);
}

Result<void> Disk::trim_all(Range range, bool fua)
{
    return change(
        range, fua, Parts::whole, [&] { return image_->place_trim(range); }, never_in_place,
        [&](Range part) { return image_->trim(part); });
}

// What a backup needs is not trimmed, and does not become dirty.
Result<void> Disk::trim_parts(Range range, bool fua)
{
    std::vector<Range> parts;
    {
        Passage passage(gate_);
        TRY(check_range(range));
        if (why_read_only_)
            return *why_read_only_;
        parts = backups_.frozen().trimmable(*inside_, range);
    }
    for (const Range &part : parts)
        TRY(trim_all(part, false));
    return fua ? flush() : Result<void>();
}

Result<void> Disk::flush()
{
    Passage passage(gate_);
    TRY(readable());
    return why_read_only_ ? Result<void>() : image_->flush();
}

Result<void> Disk::cache(GuestOffset offset, std::uint64_t length)
{
    Passage passage(gate_);
    TRY(check_range(Range::of(offset.value, length)));
    return image_->look_up(Range::of(offset.value, length));
}

Result<std::vector<Extent>> Disk::block_status(GuestOffset offset, std::uint64_t length)
{
    Passage passage(gate_);
    TRY(check_range(Range::of(offset.value, length)));
    return consecutive_extents(offset.value, length,
                               [&](std::uint64_t from, std::uint64_t length_max) {
                                   return image_->status(from, length_max);
                               });
}

}  // namespace qcow2
