// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk: its size and its snapshots change while it is served.
//
// What takes long is done beforehand, while requests pass: bits are stored, a free cluster
// is looked for. Then the gate is closed, what is left of it is done, the structure changes
// as a whole or not at all (H1), and the image is opened anew from what the file now says:
// nothing that was in memory has to be put right.

#include <new>

#include "core/base/log.h"
#include "core/bitmap/tracker.h"
#include "core/disk.h"
#include "core/format/limits.h"
#include "core/image/image.h"
#include "core/image/snapshots.h"
#include "core/structure/resize.h"
#include "core/structure/resized_bitmaps.h"
#include "core/structure/snapshot_change.h"

namespace qcow2 {

namespace {

Result<std::uint64_t> whole_sectors(std::uint64_t size)
{
    if (size > static_cast<std::uint64_t>(INT64_MAX) - limits::sector)
        return Error(Errc::invalid, "no disk can have {} bytes", size);
    return align_up(size, limits::sector);
}

}  // namespace

// The long part of what comes before a change of the structure.
Result<void> Disk::restructure_beforehand(Bits bits)
{
    TRY(bits == Bits::kept ? flush() : settle_beforehand());
    Passage passage(gate_);
    TRY(readable());
    look_for_free();
    return {};
}

// What cannot be read is told to the one who needs it.
void Disk::look_for_free()
{
    if (why_read_only_)
        return;
    if (const Result<void> looked = image_->allocator().look_for_free(); !looked)
        log_debug("a look for free clusters: {}", looked.error().what);
}

Result<void> Disk::restructure(const Restructuring &operation)
{
    TRY(restructure_beforehand());
    Exclusive alone(gate_);
    return restructure_alone(operation);
}

Result<void> Disk::restructure_alone(const Restructuring &operation)
{
    TRY(settle_before_restructuring());
    return change_structure(operation);
}

Result<void> Disk::writable_alone()
{
    TRY(readable());
    if (why_read_only_)
        return *why_read_only_;
    TRY(image_->state());
    return begin_alone();
}

Result<void> Disk::settle_before_restructuring(Bits bits)
{
    TRY(writable_alone());
    TRY(settle_alone(bits));
    TRY(take_back_alone());
    return why_read_only_ ? Result<void>(*why_read_only_) : Result<void>();
}

Result<void> Disk::change_structure(const Restructuring &operation, Bits bits)
{
    Result<void> done;
    try {
        done = give_back_after(operation(*image_));
    } catch (...) {
        // The file may have changed all the same. If it cannot be opened either,
        // the error is kept, and the next request gets it.
        [[maybe_unused]] const auto opened = open_anew(bits);
        throw;
    }
    TRY(std::move(done));
    return open_anew(bits);
}

// Clusters that came into the allocator's hands, whatever became of the change.
Result<void> Disk::give_back_after(Result<void> done)
{
    if (const auto settled = image_->settle(); !settled)
        log_debug("after a change of the structure: {}", settled.error().what);
    return done;
}

Result<void> Disk::open_anew(Bits bits)
{
    try {
        return open_what_is_there(bits);
    } catch (const std::bad_alloc &) {  // there may be no image now
        broken_.emplace(Errc::io, "out of memory");
        return Error(Errc::io, "out of memory");
    }
}

// What the old image knew and the file does not tell goes along: where space
// is fresh (W2), and whether a flush has failed (W5).
Result<void> Disk::open_what_is_there(Bits bits)
{
    const HostCluster fresh_mark = image_->allocator().fresh_mark();
    const std::optional<Error> cause = image_->first_cause();
    flush_failed_ = cause.has_value();  // to be known if it breaks
    // Backing and data file stay open: somebody may have renamed them.
    ImageFiles files = image_->release_files();
    std::unique_ptr<Tracker> before = std::move(tracker_);
    if (bits == Bits::read)
        before.reset();
    image_.reset();
    auto opened = open_with_bitmaps(store_, options_, std::move(files));
    if (!opened) {
        broken_ = std::move(opened).error().in("the image could not be opened anew");
        return *broken_;
    }
    image_ = std::move(opened->image);
    tracker_ = std::move(opened->tracker);
    if (before)
        tracker_->take_bits_of(*before);
    backups_.attach(*tracker_);
    image_->allocator().set_fresh_mark(fresh_mark);
    why_read_only_ = why_read_only_of(*image_, *tracker_);
    if (cause)
        image_->store().fail(*cause);
    if (why_read_only_)
        log_warning("the disk is served read-only from now on: {}", why_read_only_->what);
    if (why_read_only_ || cause)
        return {};
    TRY(image_->begin_writing());
    if (serving_)
        make_room_for_bits();
    return {};
}

// B7. Whatever was to be done before this is done, and stays so if this fails: then a
// place is looked for when there are bits.
void Disk::make_room_for_bits()
{
    if (why_read_only_)
        return;
    Result<void> made = tracker_->begin_writing();
    if (made && settled_)
        made = image_->settle();
    if (!made)
        log_debug("a place for the last bits of bitmaps: {}", made.error().what);
}

Result<void> Disk::check_resize(std::uint64_t size) const
{
    Passage passage(gate_);
    TRY(readable());
    if (why_read_only_)
        return *why_read_only_;
    return check_resize_alone(size);
}

Result<void> Disk::check_resize_alone(std::uint64_t size) const
{
    size = TRY(whole_sectors(size));
    TRY(Resize(*image_, size).check());
    return ResizedBitmaps(*image_, *tracker_, size).check();
}

Result<void> Disk::resize(std::uint64_t size)
{
    TRY(restructure_beforehand());
    Exclusive alone(gate_);
    return resize_alone(size);
}

Result<void> Disk::resize_alone(std::uint64_t size)
{
    size = TRY(whole_sectors(size));
    if (image_ && size < image_->disk_size())
        TRY(check_no_backup("the disk cannot be made smaller"));
    return restructure_alone([&](Image &image) -> Result<void> {
        if (image.disk_size() == size)
            return {};
        Resize resize(image, size);
        ResizedBitmaps bitmaps(image, *tracker_, size);
        Aside aside(image);
        TRY(bitmaps.prepare(aside));
        TRY(resize.prepare(aside));
        TRY(aside.commit([&](HeaderArea &area) {
            resize.apply(area);
            bitmaps.apply(area);
        }));
        log_debug("the disk had {} bytes, and has {}", image.disk_size(), size);
        resize.finish();
        return {};
    });
}

Result<std::vector<Snapshot>> Disk::snapshots()
{
    Passage passage(gate_);
    TRY(readable());
    return TRY(load_snapshots(image_->store(), image_->header().header())).snapshots;
}

Result<void> Disk::create_snapshot(const NewSnapshot &snapshot)
{
    return restructure_ajar(
        Meanwhile::overwrites, [&](Image &image, const BecomeAlone &become_alone) {
            return qcow2::create_snapshot(image, snapshot, nullptr, become_alone);
        });
}

Result<std::shared_ptr<SnapshotReader>> Disk::open_snapshot(std::string_view id_or_name)
{
    Passage passage(gate_);
    TRY(readable());
    return served_.open(store_, *image_, id_or_name);
}

Result<void> Disk::delete_snapshot(std::string_view id_or_name)
{
    return restructure_ajar(
        Meanwhile::overwrites, [&](Image &image, const BecomeAlone &become_alone) -> Result<void> {
            TRY(served_.check_unused(image, id_or_name));
            return qcow2::delete_snapshot(image, id_or_name, [&]() -> Result<void> {
                TRY(become_alone());
                return served_.check_unused(image, id_or_name);
            });
        });
}

// B6: a switch changes the disk.
Result<void> Disk::revert(std::string_view id_or_name)
{
    return restructure_ajar(
        Meanwhile::reads, [&](Image &image, const BecomeAlone &become_alone) -> Result<void> {
            TRY(check_no_backup("the disk cannot be reverted to a snapshot"));
            TRY(served_.check_unused(image, id_or_name));
            const auto bitmaps = [&](Aside &aside,
                                     std::uint64_t disk_size) -> Result<ImageHeader::Change> {
                ResizedBitmaps bitmaps(image, *tracker_, disk_size);
                bitmaps.set_enabled();
                TRY(bitmaps.prepare(aside));
                return ImageHeader::Change([bitmaps](HeaderArea &area) { bitmaps.apply(area); });
            };
            return apply_snapshot(image, id_or_name, bitmaps, [&]() -> Result<void> {
                TRY(become_alone());
                return served_.check_unused(image, id_or_name);
            });
        });
}

}  // namespace qcow2
