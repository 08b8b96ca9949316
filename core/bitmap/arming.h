// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Arming: how bits get into the file, and out of it again.
//
// B2  Every granule of a change is durably set in the file, in every enabled
//     bitmap, before the change goes down. So the change that touches a granule
//     first waits for a barrier. That it may be seldom, the *region* around the
//     granule (16 MiB of the disk) is armed: all its bits are set in the file. Changes
//     that come while a barrier is under way share the next one (group commit).
//     Armings near each other widen the region, to four times as much each time; where the
//     guest writes all over the disk it is whole pages of bits, 64 together.
// B3  Of one sector of a bitmap at most one write is in flight: every writer holds
//     the turn (turn_), an arming until its barrier has succeeded. Only then are
//     the bits called durable.
// B7  No room for a bitmap's cluster: its table entry becomes all ones. The last
//     one, which cannot, is made before the first change. If even that was not
//     to be had, the bitmap is given up: marked in_use. Not before the change
//     has said that its data have their place.
// B8  store() makes the file exact.
//
// cool() takes the bits of regions to which nothing came lately out again. A
// crash therefore reports too much: the regions in use. How much that can be
// is bounded for each bitmap, but where the guest writes all over the disk (ArmingLimits).
//
// It logs each barrier with log_detail(), and the sums with log_debug().
//
// Any thread; store(): nobody else is inside.

#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/bitmap/arming_limits.h"
#include "core/bitmap/enabled_bitmap.h"

namespace qcow2 {

class ArmingWrites;

// What is to be cooled, and how far it has come.
struct Cooling {
    bool all = false;  // also what was written to lately
    // Of these bitmaps; nullopt: of all.
    std::optional<std::vector<std::string>> names = std::nullopt;

    std::size_t bitmap = 0;
    std::uint64_t page = 0;

    bool wants(const std::string &name) const
    {
        return !names || std::find(names->begin(), names->end(), name) != names->end();
    }
};

class Arming {
public:
    using Bitmaps = std::vector<std::unique_ptr<EnabledBitmap>>;
    // Marks a bitmap in_use, durably, because it cannot be kept true any more.
    using GiveUp = std::function<Result<void>(EnabledBitmap &)>;

    // The bitmaps must outlive it.
    Arming(Image &image, Bitmaps &bitmaps, const ArmingLimits &limits, GiveUp give_up)
        : image_(image), bitmaps_(bitmaps), limits_(limits), give_up_(std::move(give_up))
    {
    }

    // Before the first change: a place for the last bits of each bitmap. One
    // that has none is warned of.
    Result<void> make_last_clusters() EXCLUDES(turn_);
    // The bits of these bytes of the disk are precise already; returns when
    // they are durable. False: there is no room for those of some bitmap, and it
    // was not to be given up for that.
    Result<bool> arm(Range bytes, bool may_give_up) EXCLUDES(queue_, turn_);
    // One step of cooling, of some pages; a change that has to arm waits for no more than that.
    // False: there was nothing left.
    Result<bool> cool(Cooling &cooling) EXCLUDES(turn_, queue_);
    // Brings the file to exactly the precise bits of these bitmaps, durably. in_use: they
    // are marked, so changes have relied on bits that are in memory alone.
    Result<void> store(const std::vector<EnabledBitmap *> &which, bool in_use) EXCLUDES(turn_);

private:
    // Those who wait for the same barrier.
    struct Batch {
        std::vector<Range> ranges;
        bool may_give_up = false;
        bool done = false;
        Result<bool> result = false;
    };
    struct Write {
        EnabledBitmap *bitmap;
        PageImage image;  // without content, when that is written
    };

    void finish(Batch &batch, Result<bool> result) REQUIRES(queue_);
    void end_turn() REQUIRES(queue_);
    Result<bool> run(Batch &batch) EXCLUDES(turn_);
    std::uint64_t extra_bytes() const REQUIRES(turn_);
    // Whether the guest writes all over the disk, and the bitmap may be armed by pages.
    bool is_all_over(const EnabledBitmap &bitmap) const REQUIRES(turn_);
    std::vector<std::uint64_t> pages_to_arm(const EnabledBitmap &bitmap, const Batch &batch) const
        REQUIRES(turn_);
    void log_armed(const std::vector<Write> &images, std::size_t waits, std::uint64_t barriers,
                   std::chrono::microseconds took) const REQUIRES(turn_);
    void log_figures() REQUIRES(turn_);
    Result<bool> write_durably(const Batch &batch, std::vector<Write> &armed) REQUIRES(turn_);
    std::optional<PageImage> arm_page(EnabledBitmap &bitmap, std::uint64_t page) REQUIRES(turn_);
    Result<bool> write_page(EnabledBitmap &bitmap, const PageImage &image, ArmingWrites &writes,
                            bool may_give_up) REQUIRES(turn_);
    Result<void> give_up(EnabledBitmap &bitmap) REQUIRES(turn_);
    Result<std::vector<ByteStore::Part>> place_exact(Write &write, bool in_use) REQUIRES(turn_);
    Result<bool> write_exact(Write &write, bool in_use) REQUIRES(turn_);
    bool tables_changed() const REQUIRES(turn_);
    Result<void> write_tables() REQUIRES(turn_);
    void let_others_arm() EXCLUDES(turn_, queue_);
    Result<bool> cool_page(EnabledBitmap &bitmap, std::uint64_t page, bool all) REQUIRES(turn_);
    Result<void> keep_bound(EnabledBitmap &bitmap, const std::vector<Write> &just_armed)
        REQUIRES(turn_);
    Result<void> keep_bounds(const std::vector<Write> &just_armed) REQUIRES(turn_);

    Image &image_;
    Bitmaps &bitmaps_;
    const ArmingLimits limits_;
    const GiveUp give_up_;

    Mutex turn_{Rank::turn};
    // For the log, since the last line of it.
    std::uint64_t barriers_ GUARDED_BY(turn_) = 0;
    std::uint64_t waits_ GUARDED_BY(turn_) = 0;

    Mutex queue_{Rank::bitmaps};
    Condition ended_;
    bool running_ GUARDED_BY(queue_) = false;
    std::uint64_t batches_ended_ GUARDED_BY(queue_) = 0;
    std::shared_ptr<Batch> next_ GUARDED_BY(queue_);
};

}  // namespace qcow2
