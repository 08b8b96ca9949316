// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Tracker: the dirty bitmaps of an image, and which of them see a change.
//
// The rules B (core/README.md):
//
// B1  on-close: in_use is durable in every enabled bitmap before the first
//     tracked change goes down; by a write of the flags word, which can cost
//     nothing else. before_change().
// B2  durable: every granule of a change is durably set in the file, in every
//     enabled bitmap, before the change goes down; see Arming, also for B3.
// B4  At every instant the file opens in QEMU, every enabled bitmap either
//     consistent or marked.
// B5  A bitmap found in_use is inconsistent: not tracked, kept as it is.
// B6  Write, zero and trim are changes.
// B7  A guest's write is never refused for lack of room for a bitmap, and no
//     bitmap is given up for data that have no room either: they are placed
//     first. What was given up becomes valid again, all dirty, when there is
//     room (Disk). See Arming.
// B8  After store() each bitmap is exactly the granules touched while it was
//     enabled, plus what was set before.
// H4  An extension found with autoclear bit 0 clear is never written to.
//     BitmapDirectory.
//
// before_change() and cool() may be called from any thread. All
// else: nobody else is inside.

#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/bitmap/arming.h"
#include "core/bitmap/bitmap_sync.h"

namespace qcow2 {

class Tracker {
public:
    Tracker(Image &image, BitmapSync sync, const ArmingLimits &limits);

    // Reads directory and tables. A finding that keeps an enabled bitmap from
    // being kept true does not fail: why_read_only() says it.
    Result<void> open();
    // The same after the directory was changed, over the same image, none of whose bitmaps
    // is marked in_use: what `before` knows of those that keep their tables (their bits in
    // memory, their place) is taken over. `before` is of no use then. kept: for each entry its old
    // number (BitmapChanges::kept_tables()).
    using KeptTables = std::vector<std::optional<std::size_t>>;
    Result<void> open_after(Tracker &before, const KeptTables &kept);
    // After open() of an image that was opened anew, whose bitmaps are where they were: what
    // `before` knows of their bits is known here, and does not have to be in the file.
    void take_bits_of(Tracker &before);
    const std::optional<Error> &why_read_only() const { return why_read_only_; }

    // Once, before the first change (B7).
    Result<void> begin_writing() { return arming_.make_last_clusters(); }

    // B1, B2, B6: marks the bytes of this range, before they change. place: makes
    // sure that the change will have the room that it needs; it is asked only if
    // a bitmap has to be given up for it.
    template <class Place>
    Result<void> before_change(Range bytes, Place place)
    {
        return TRY(mark(bytes)) ? Result<void>() : make_durable(bytes, place);
    }

    // The same while somebody else prepares a structure: nothing changes but bits where they are.
    // False: that is not enough, and the change has to wait.
    Result<bool> before_overwrite(Range bytes);

    // Regions to which nothing was written lately are not reported after a crash any more;
    // cooling.all: whenever they were written to, so that little is left to store(). A step of
    // it; false if there was nothing left. Between two steps bitmaps may come and go.
    Result<bool> cool(Cooling &cooling) { return arming_.cool(cooling); }

    // B8: brings the file up to date and takes in_use off, durably.
    Result<void> store();
    // As far as is needed before the directory changes: what the file has of these bitmaps
    // is exact, and none is in_use.
    Result<void> store(const std::vector<std::string> &names);

    // One that is kept true; nullptr: there is none of this name, or it was given up.
    EnabledBitmap *tracked(std::string_view name) const;
    // The same for each of entries().
    std::vector<EnabledBitmap *> tracked() const;

    // True if there is a bitmap that is kept true.
    bool tracks() const { return !enabled_.empty(); }

    // Some bitmap was given up for lack of room, now or before it was opened.
    bool gave_up() const;
    // Whether there is room for a cluster of a bitmap now.
    Result<bool> has_room();

    // The directory as it is now, for those who change it; empty if it is not
    // used. Bitmaps that were lost are in_use (B7).
    std::vector<BitmapDirectoryEntry> entries() const;
    HostRun directory_clusters() const { return directory_clusters_; }
    // Why the table of an entry must not be followed: it has another size than
    // the disk needs, or leads to what is not the bitmap's own.
    const std::optional<Error> &why_not_followed(std::size_t entry) const
    {
        return not_followed_[entry];
    }

private:
    Result<bool> open_directory(HostOffset noted);
    Result<void> open_bitmap(std::size_t entry, TableBuffer &buffer);
    Result<void> take_over(std::size_t entry, std::unique_ptr<EnabledBitmap> bitmap,
                           TableBuffer &buffer);
    bool is_tracked(std::size_t entry) const;
    void note_finding(std::size_t entry, const Result<void> &opened);
    Result<void> write_flags(const EnabledBitmap &bitmap, bool in_use);
    Result<void> set_in_use(bool in_use);
    Result<void> give_up(EnabledBitmap &bitmap);
    Result<bool> mark(Range bytes);
    std::vector<EnabledBitmap *> kept_true(const std::vector<std::string> &names) const;
    Result<void> make_durable(Range bytes, const std::function<Result<void>()> &place);
    Result<void> mark_all() EXCLUDES(marks_);

    Image &image_;
    const BitmapSync sync_;
    const std::uint64_t region_bytes_;
    std::optional<Error> why_read_only_;
    HostOffset directory_;
    HostRun directory_clusters_;
    std::vector<BitmapDirectoryEntry> entries_;       // as at open
    std::vector<std::optional<Error>> not_followed_;  // for each of entries_
    bool found_given_up_ = false;
    Arming::Bitmaps enabled_;
    Arming arming_;

    Mutex marks_{Rank::marks};                       // B1 is done once
    std::atomic<bool> in_use_{false};                // durably, in all that are enabled
    bool may_be_in_use_ GUARDED_BY(marks_) = false;  // on disk, in some
};

}  // namespace qcow2
