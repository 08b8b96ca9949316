// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FrozenDisks: the disks that are frozen at the same time, and the changes that
// keep for them what they overwrite (rules F1, F2, F3; frozen_disks.cpp tells how).
//
// Changes, that is before_change(), before_part() and trimmable(), are called by
// threads that are inside of the disk's gate, and freeze() by one that has closed it.
// All else: any thread outside of the gate, but for what is said.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/backup/frozen_disk.h"
#include "core/backup/keepings.h"
#include "core/backup/live_disk.h"
#include "core/backup/needed.h"
#include "core/backup/scratch.h"
#include "core/base/range_lock.h"

namespace qcow2 {

struct FreezeRequest {
    std::string name;        // of the backup, for messages
    std::uint64_t size = 0;  // of the disk, bytes
    std::unique_ptr<Scratch> scratch;
    std::shared_ptr<const Needed> needed;  // nullptr: all
    Standing::Listener on_broken;          // may be empty
};

class FrozenDisks {
public:
    using Duration = std::chrono::steady_clock::duration;

    // How long one change has waited for copies, all its parts together.
    class Waited {
    private:
        friend class FrozenDisks;
        Duration so_far_{};
    };

    // So long a change waits for copies; then it goes down, and who needed them is broken. Guests
    // take a request for lost after thirty seconds.
    static constexpr Duration waiting_max = std::chrono::seconds(10);
    // What is copied in one piece, and about what is kept in one part of a long change: bytes, as
    // many as a cluster has at most.
    static constexpr std::uint64_t copy_bytes_max = 2 << 20;

    // live: the disk, for those who read frozen ones: passes the gate by itself. Must outlive this.
    explicit FrozenDisks(LiveDisk &live, Duration waiting_max = FrozenDisks::waiting_max)
        : live_(live), waiting_max_(waiting_max)
    {
    }
    FrozenDisks(const FrozenDisks &) = delete;
    FrozenDisks &operator=(const FrozenDisks &) = delete;

    // False: nothing is frozen that is not broken, and a change need not ask.
    bool any() const { return true_ones_.load(std::memory_order_relaxed) != 0; }

    // The gate is closed. No I/O. std::bad_alloc: nothing is frozen.
    std::shared_ptr<FrozenDisk> freeze(FreezeRequest request);
    // Its backup ends: it cannot be read any more. What older ones find in it stays, or is copied,
    // so this may take its time; not with the gate closed.
    void thaw(const FrozenDisk &disk) EXCLUDES(ending_);
    // All are broken, for this reason, and their scratch is given back. True if there were any.
    bool break_all(const char *reason) EXCLUDES(ending_);
    // Gives back the scratch of those that are broken. To be called every few seconds.
    void tidy() EXCLUDES(ending_);

    // A change of these bytes is about to go down: their old content is kept first. Never fails:
    // what cannot be kept breaks the frozen disks that need it (F2).
    //
    // inside: reads the disk for a caller that is inside of the gate already.
    void before_change(LiveDisk &inside, Range bytes);
    // The same for a long one that can go down in parts: what is kept is the beginning. Where
    // that ends, in bytes: so far it may go down, then ask again for the rest.
    std::uint64_t before_part(LiveDisk &inside, Range bytes, Waited &waited);
    // A trim, which is a hint: the parts that may go down. What somebody needs and has data
    // may not (F1). None if there is no memory.
    std::vector<Range> trimmable(LiveDisk &inside, Range bytes);

private:
    enum class Parts { all, first };

    std::uint64_t keep(LiveDisk &inside, Range bytes, Parts parts, Waited &waited);
    std::uint64_t first_needed(Range blocks) const;
    std::uint64_t keep_claimed(LiveDisk &inside, Range blocks, Parts parts,
                               std::chrono::steady_clock::time_point until);
    std::uint64_t keep_some(LiveDisk &inside, Keeping &keeping, Range blocks,
                            std::uint64_t &copied);
    std::uint64_t copy(LiveDisk &inside, Keeping &keeping, Range blocks);
    static void note_unreadable(Keeping &keeping, Range blocks, const Error &cause);
    void trim_claimed(LiveDisk &inside, Range blocks, Range bytes, std::vector<Range> &parts);
    void give_up(Range blocks, const char *reason) noexcept;

    bool untidy() const REQUIRES(ending_);
    void tidy_alone() noexcept REQUIRES(ending_);
    template <class Change>
    void put(Change change) REQUIRES(ending_);

    LiveDisk &live_;
    const Duration waiting_max_;
    std::atomic<unsigned> true_ones_{0};
    // Blocks of which somebody finds out whether they are to be kept, and keeps them.
    RangeLock claims_{Rank::claims};
    CurrentKeepings keepings_;
    Mutex ending_{Rank::ending};
};

}  // namespace qcow2
