// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk: requests that pass while a snapshot is made, applied or deleted.
//
// To prepare that takes a second and more for each terabyte that is mapped: all L2 tables are
// read, and most of them, and all refcounts, written anew, aside. What is written there nobody
// sees before the commit, and what it is made from changes only if the mapping does. So the
// gate, closed to settle the disk, is set ajar for the preparation, and shut for the commit.
//
// A request passes if it leaves all that the image says of itself as it is:
//
//     reads, block status       look things up
//     flushes                   find nothing dirty but the guest's bytes
//     writes to clusters that   the snapshot is what the disk is at the commit, and so has
//     are the disk's alone      them; the mapping says before and after where they are
//
// All other changes wait until the gate is open: what needs a cluster, zeros and trims. A write
// does not know beforehand which it is. It tries, and where a cluster would have to be made,
// it leaves the gate, waits, and is done again as a whole. Bytes of it may be there twice then,
// and bits were set for a change that comes later, which is in the order of B2.
//
// Bits of bitmaps are set where they are, as ever, before the change goes down (B2). Only where
// a bitmap has no cluster yet, the change waits, too, and with on-close where it would need
// in_use. The bits in memory are kept when the image is opened anew: bitmaps are where they
// were, and to store all that came would keep everybody waiting.
//
// That nobody takes a cluster meanwhile, which the new refcounts would not count, is not left
// to the above: Allocator::take() fails as long as the preparation lasts.
//
// One thing changes tables behind everybody's back: a name that leads behind the end of the
// file is put out of reach by whoever meets it (W7). Then nothing of what was prepared is used:
// it is done again with everybody waiting, as it is where there is no room to do it aside.

#include "core/base/log.h"
#include "core/bitmap/tracker.h"
#include "core/disk.h"
#include "core/disk_live.h"
#include "core/image/image.h"

namespace qcow2 {

// Some pass for the current scope, or until end(); then nobody is inside.
class Disk::Passing {
public:
    Passing(Disk &disk, Meanwhile who)
        : disk_(disk), allocator_(disk.image_->allocator()), holds_(holds())
    {
        allocator_.set_held(true);
        disk_.ajar_ = who;
        gate_.emplace(disk.gate_);
    }
    ~Passing()
    {
        end();
        allocator_.set_held(false);
    }
    Passing(const Passing &) = delete;
    Passing &operator=(const Passing &) = delete;

    bool ended() const { return !gate_; }
    void end()
    {
        gate_.reset();
        disk_.ajar_.reset();
    }
    bool has_changed_tables() const { return holds() != holds_; }

private:
    std::uint64_t holds() const { return disk_.image_->store().holds(); }

    Disk &disk_;
    Allocator &allocator_;
    const std::uint64_t holds_;
    std::optional<Ajar> gate_;
};

Result<void> Disk::restructure_ajar(Meanwhile who, const Preparation &operation)
{
    TRY(restructure_beforehand(bits_after(who)));
    Exclusive alone(gate_);
    TRY(settle_before_restructuring(bits_after(who)));
    return change_structure_ajar(who, operation);
}

// The gate is closed when it is called, and when it returns.
Result<void> Disk::change_structure_ajar(Meanwhile who, const Preparation &operation)
{
    bool disturbed = false;
    const auto prepare_ajar = [&](Image &image) {
        Passing passing(*this, who);
        const Result<void> done = operation(image, [&]() -> Result<void> {
            if (passing.ended())
                return {};
            // Each takes a shorter time than the one before, and keeps nobody waiting.
            TRY(image.store().flush());
            TRY(image.store().flush());
            passing.end();
            TRY(image.state());
            return passing.has_changed_tables()
                       ? Error(Errc::busy, "what was prepared while requests passed is out of date")
                       : Result<void>();
        });
        disturbed = !done && passing.has_changed_tables();
        return done;
    };
    const Result<void> done = change_structure(prepare_ajar, bits_after(who));
    if (done || !disturbed)
        return done;
    log_debug("{}: it is prepared again, while requests wait", done.error().what);
    TRY(image_->flush());
    return change_structure(
        [&](Image &image) { return operation(image, [] { return Result<void>(); }); },
        bits_after(who));
}

// While the gate is ajar. False: it has to wait until the gate is open.
Result<bool> Disk::overwrite(GuestOffset offset, Bytes bytes, bool fua)
{
    const Range range = Range::of(offset.value, bytes.size());
    TRY(check_range(range));
    if (why_read_only_)
        return *why_read_only_;
    if (ajar_ != Meanwhile::overwrites)
        return false;
    const Activity::Scope under_way(changes_);
    if (settled_.load())
        settled_ = false;
    if (!TRY(tracker_->before_overwrite(range)))
        return false;
    if (backups_.frozen().any())
        backups_.frozen().before_change(*inside_, range);
    if (!TRY(image_->overwrite(offset, bytes)))
        return false;
    if (fua)
        TRY(image_->flush());
    return true;
}

}  // namespace qcow2
