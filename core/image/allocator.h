// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Allocator: finds host clusters, takes them, and lets them go.
//
// The life of a cluster:
//
//   free       refcount 0.
//   reserved   refcount 1 in the file, no name: the reserve. Raised by chunks, so
//              that most allocations write no refcount. A crash leaks what is
//              left of it; settle() gives it back.
//   taken      handed out; somebody is about to name it. He flushes first, and
//              then the refcount is durable, too (W1).
//   named      part of the image. Not our business.
//   released   its name is gone in memory. Kept by Mapping until that is
//              durable and no reader is at it; then lower() (W3).
//
// A taken cluster is *fresh* if it lies in space that this process added and
// nothing was ever sent to it: it reads as zeros and is so after a crash (W2).
//
// Any thread; the lock is held across store I/O.

#pragma once

#include <cstdint>
#include <deque>
#include <span>

#include "core/image/refcounts.h"

namespace qcow2 {

class Allocator {
public:
    struct Taken {
        HostRun run;
        bool fresh = false;
    };

    Allocator(ByteStore &store, ImageHeader &header, MetadataMap &metadata,
              std::uint64_t cache_bytes);

    // Reads and checks the refcount table; the finding forbids writing.
    Result<void> open() EXCLUDES(mutex_);

    // Takes 1 to count_max clusters side by side. no_space. Before one is named in
    // the file there has to be a flush.
    Result<Taken> take(std::uint64_t count_max) EXCLUDES(mutex_);
    // Takes exactly so many side by side, for tables. no_space. They are not
    // fresh: write all of them. Before they are named there has to be a flush, too.
    Result<HostRun> take_contiguous(std::uint64_t count) EXCLUDES(mutex_);
    // The first look for a free cluster reads all refcounts of a full image: it need not be
    // made while others wait. Nothing is taken.
    Result<void> look_for_free() EXCLUDES(mutex_);
    // While it is held take() fails (busy), and only take_contiguous() hands clusters out: for
    // who prepares a structure that counts them anew, while requests pass.
    void set_held(bool held) EXCLUDES(mutex_);
    // Taken, but not named after all: back into the reserve.
    void give_back(HostRun run) EXCLUDES(mutex_);

    // One more name for each; durable, all or nothing (W1). unsupported: a count
    // would not fit its width.
    Result<void> raise(const std::deque<HostRun> &runs) EXCLUDES(mutex_);
    // One name of each is durably gone, and nobody reads by it any more (W3).
    // A failure leaks them, and is said in the log.
    void lower(HostRun run) EXCLUDES(mutex_);

    Result<std::uint64_t> refcount(HostCluster cluster) EXCLUDES(mutex_);
    // Of those from `first` on.
    Result<void> refcounts(HostCluster first, std::span<std::uint64_t> counts) EXCLUDES(mutex_);
    // The parts of the run that are used once, by the name that the caller is about
    // to take away: nobody else can begin to use them meanwhile.
    std::vector<HostRun> last_references(HostRun run) EXCLUDES(mutex_);

    // Gives the reserve back and writes refcounts; the caller flushes.
    Result<void> settle() EXCLUDES(mutex_);
    // Whether refcounts say that there is something behind the end of the file: it
    // was cut, or its growth was lost in a crash.
    Result<bool> counts_behind_end() EXCLUDES(mutex_);
    // The end of the last cluster in use, in bytes.
    Result<std::uint64_t> used_end() EXCLUDES(mutex_);

    // From here on nothing was ever sent to the store; at first, the end of the
    // file as it was found. When an image is opened anew, it is set to what the
    // Image before it knew.
    HostCluster fresh_mark() const EXCLUDES(mutex_);
    void set_fresh_mark(HostCluster mark) EXCLUDES(mutex_);

private:
    HostCluster store_end() const;
    HostCluster file_end() const;
    bool fresh(HostCluster cluster) const REQUIRES(mutex_);
    void not_fresh_before(HostCluster end) REQUIRES(mutex_);

    Result<void> refill(std::uint64_t count) REQUIRES(mutex_);
    // What 16 refcount blocks count.
    std::uint64_t search_clusters() const
    {
        return std::uint64_t(16) << geometry_.refcount_block_bits();
    }
    Result<std::uint64_t> find_chunk(std::uint64_t count, std::deque<HostRun> &found)
        REQUIRES(mutex_);
    Result<void> cover(HostCluster cluster) REQUIRES(mutex_);
    Result<void> grow_store(HostCluster end) REQUIRES(mutex_);
    Result<void> grow_refcount_table() REQUIRES(mutex_);
    Result<void> raise_all(const std::deque<HostRun> &runs) REQUIRES(mutex_);
    Result<void> raise_durably(const std::deque<HostRun> &runs) REQUIRES(mutex_);
    Result<HostRun> find_contiguous(std::uint64_t count) REQUIRES(mutex_);
    Result<HostRun> make_room_at_end(std::uint64_t count) REQUIRES(mutex_);
    void lower_locked(HostRun run) REQUIRES(mutex_);

    ByteStore &store_;
    MetadataMap &metadata_;
    const Geometry geometry_;

    mutable Mutex mutex_{Rank::allocator};
    Refcounts refcounts_ GUARDED_BY(mutex_);
    std::deque<HostRun> reserve_ GUARDED_BY(mutex_);
    bool held_ GUARDED_BY(mutex_) = false;
    // No cluster before it is free.
    HostCluster free_hint_ GUARDED_BY(mutex_);
    // What take_contiguous() has looked at: before `end` it finds no so many side by
    // side. Data and tables come in turns: each has its own.
    struct Searched {
        std::uint64_t count = 0;
        HostCluster end;
    };
    Searched searched_for_one_ GUARDED_BY(mutex_);
    Searched searched_ GUARDED_BY(mutex_);
    // From here on nothing was ever handed out, or written for refcounts.
    HostCluster fresh_mark_ GUARDED_BY(mutex_);
    std::uint64_t chunk_bytes_ GUARDED_BY(mutex_) = chunk_bytes_min;

    static constexpr std::uint64_t chunk_bytes_min = 1 << 20;
    static constexpr std::uint64_t chunk_bytes_max = 64 << 20;
};

}  // namespace qcow2
