// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What is hard here is to write little. By the book each new cluster costs a write of its
// refcount and a flush, before it can be named (W1). Instead there is a reserve.
//
// The reserve. refill() raises the refcounts of a whole chunk of free clusters, 1 to 64 MiB,
// writes them, and keeps the chunk in memory as runs that anybody may take from. It does not
// flush: a caller that takes a cluster must flush before it names it, for the bytes in it (W2),
// and that flush makes the refcounts durable as well. A crash leaks what is left of the chunk,
// so it begins small, doubles with each refill, and is small again after each settling, which
// gives the reserve back. Clusters for tables that must lie side by side (take_contiguous) do
// not come from the reserve; their refcounts are made durable at once.
//
// Looking for free clusters. free_hint_ says that nothing before it is free: it moves forward
// with what is found, and back with what is lowered. The first free cluster is looked for
// everywhere, from the hint on; more for the same chunk only nearby. In an image that is
// nearly full, where free clusters are few and far between, a search for a whole chunk would
// read all refcounts each time a few clusters become free.
//
// When nothing is free the file grows; when the clusters there have no refcount block one is
// made, and it takes the first of the clusters that it counts; when the refcount table has no
// entry for the block it moves to a larger one behind everything (Refcounts). Each of the
// three may need one of the others, so find_chunk() does one at a time and looks again. A run
// that must lie in one piece cannot have a block in the middle: make_room_at_end() puts the
// blocks in front of it, and since each block moves the run one cluster further, which may
// need another block, it counts until that is settled.
//
// Fresh clusters (W2). Space that this process has added to the file reads as zeros, after a
// crash, too, as long as nothing was sent to it. So a cluster that is taken there need not be
// filled around the guest's bytes. fresh_mark_ is the end of all that was ever handed out or
// sent something; it only grows, and it grows before the write, for a write that fails may
// land.
//
// Lowering never fails its caller: what cannot be lowered leaks, and the log says so.

#include "core/image/allocator.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/rare.h"
#include "core/format/findings.h"

namespace qcow2 {

Allocator::Allocator(ByteStore &store, ImageHeader &header, MetadataMap &metadata,
                     std::uint64_t cache_bytes)
    : store_(store),
      metadata_(metadata),
      geometry_(header.header().geometry()),
      refcounts_(store, header, metadata, cache_bytes),
      fresh_mark_(file_end())
{
}

Result<void> Allocator::open()
{
    Locked lock(mutex_);
    return refcounts_.open();
}

// The last cluster of the file may be cut short: then it can be in use, but
// not be taken.
HostCluster Allocator::store_end() const
{
    return HostCluster(store_.size() >> geometry_.cluster_bits);
}

HostCluster Allocator::file_end() const
{
    return HostCluster(geometry_.clusters_for(store_.size()));
}

bool Allocator::fresh(HostCluster cluster) const
{
    return cluster >= fresh_mark_ && geometry_.offset_of(cluster).value >= store_.fresh_from();
}

// Before anything is sent there: a write that fails may land.
void Allocator::not_fresh_before(HostCluster end) { fresh_mark_ = std::max(fresh_mark_, end); }

Result<Allocator::Taken> Allocator::take(std::uint64_t count_max)
{
    INVARIANT(count_max != 0);
    Locked lock(mutex_);
    if (held_)
        return Error(Errc::busy, "the structure of the image is being changed");
    if (reserve_.empty())
        TRY(refill(count_max));
    HostRun &run = reserve_.front();
    Taken taken{{run.first, std::min(run.count, count_max)}, fresh(run.first)};
    not_fresh_before(taken.run.end());
    run = {taken.run.end(), run.count - taken.run.count};
    if (run.count == 0)
        reserve_.pop_front();
    return taken;
}

void Allocator::set_held(bool held)
{
    Locked lock(mutex_);
    held_ = held;
}

Result<void> Allocator::look_for_free()
{
    Locked lock(mutex_);
    const HostCluster end = std::min(store_end(), refcounts_.reach_end());
    if (free_hint_ < end)
        free_hint_ = TRY(refcounts_.find_free(free_hint_, end, 1)).first;
    return {};
}

void Allocator::give_back(HostRun run)
{
    Locked lock(mutex_);
    reserve_.push_front(run);
}

Result<void> Allocator::refill(std::uint64_t count)
{
    const std::uint64_t chunk =
        std::max<std::uint64_t>(count, chunk_bytes_ >> geometry_.cluster_bits);
    std::deque<HostRun> found;
    TRY(find_chunk(std::max<std::uint64_t>(chunk, 1), found));
    // No flush: nobody names a cluster without one in between, for its bytes (W2).
    TRY(raise_all(found));
    free_hint_ = found.back().end();
    reserve_.insert(reserve_.end(), found.begin(), found.end());
    chunk_bytes_ = std::min(chunk_bytes_ * 2, chunk_bytes_max);
    return {};
}

// Finds at least one and at most `count` free clusters whose refcount blocks
// exist; makes blocks, a longer table and a longer file where it must.
Result<std::uint64_t> Allocator::find_chunk(std::uint64_t count, std::deque<HostRun> &found)
{
    std::uint64_t total = 0;
    HostCluster at = free_hint_;
    while (total < count) {
        // The first is looked for everywhere, more of them only nearby: else each
        // cluster that becomes free in a full image costs a look at all refcounts.
        const HostCluster end =
            total == 0 ? store_end() : std::min(store_end(), at + search_clusters());
        const HostRun run = TRY(refcounts_.find_free(at, end, count - total));
        if (run.count != 0) {
            if (metadata_.overlaps(run))
                return finding(
                    Finding::refcount_too_low, "a table in one of the clusters at {:#x} to {:#x}",
                    geometry_.offset_of(run.first).value, geometry_.offset_of(run.end()).value);
            found.push_back(run);
            total += run.count;
            at = run.end();
        } else if (total != 0) {
            break;  // what there is goes first
        } else if (run.first < store_end()) {
            TRY(cover(run.first));
            at = run.first;
        } else {
            at = std::max(at, store_end());
            TRY(grow_store(at + 1));
        }
    }
    return total;
}

// Makes the refcount block for a free cluster; the block takes that cluster.
Result<void> Allocator::cover(HostCluster cluster)
{
    while (cluster >= refcounts_.reach_end())
        TRY(grow_refcount_table());
    if (!refcounts_.covered(cluster)) {
        not_fresh_before(cluster + 1);
        TRY(refcounts_.make_block(cluster, cluster));
    }
    return {};
}

Result<void> Allocator::grow_refcount_table()
{
    const std::uint64_t clusters = refcounts_.growth_clusters();
    if (clusters == 0)
        return Error(Errc::no_space, "the refcount table has reached 8 MiB, QEMU's limit");
    RARE("the refcount table moves to a longer one");
    const HostCluster end = refcounts_.reach_end() + clusters;
    TRY(grow_store(end));
    not_fresh_before(end);
    const HostRun old = TRY(refcounts_.grow_table());
    lower_locked(old);
    return {};
}

Result<void> Allocator::grow_store(HostCluster end)
{
    if (end <= store_end())
        return {};
    return store_.grow(geometry_.offset_of(end).value);
}

// All or nothing, in the file.
Result<void> Allocator::raise_all(const std::deque<HostRun> &runs)
{
    for (std::size_t i = 0; i < runs.size(); ++i) {
        Result<void> result = refcounts_.raise(runs[i]);
        if (!result) {
            while (i-- > 0)
                lower_locked(runs[i]);
            return result;
        }
    }
    Result<void> result = refcounts_.write_back();
    if (!result) {
        RARE("refcounts that could not be written are lowered again");
        for (const HostRun &run : runs)
            lower_locked(run);
    }
    return result;
}

Result<void> Allocator::raise_durably(const std::deque<HostRun> &runs)
{
    TRY(raise_all(runs));
    Result<void> result = store_.flush();
    if (!result)
        for (const HostRun &run : runs)
            lower_locked(run);
    return result;
}

Result<HostRun> Allocator::take_contiguous(std::uint64_t count)
{
    INVARIANT(count != 0);
    Locked lock(mutex_);
    HostRun run = TRY(find_contiguous(count));
    if (run.count == 0)
        run = TRY(make_room_at_end(count));
    if (metadata_.overlaps(run))
        return finding(Finding::refcount_too_low, "a table in one of the clusters at {:#x}",
                       geometry_.offset_of(run.first).value);
    TRY(raise_all({run}));
    not_fresh_before(run.end());
    return run;
}

// What was looked at is not looked at again: there may be many to be taken.
Result<HostRun> Allocator::find_contiguous(std::uint64_t count)
{
    Searched &searched = count == 1 ? searched_for_one_ : searched_;
    HostCluster at = free_hint_;
    if (count >= searched.count)
        at = std::max(at, searched.end);
    // (A store of holes may be far longer than what is counted.)
    const HostCluster end = std::min(store_end(), refcounts_.reach_end());
    HostRun found;
    while (at < end && found.count == 0) {
        const HostRun run = TRY(refcounts_.find_free(at, end, count));
        if (run.count == count)
            found = run;
        else if (run.count != 0)
            at = run.end();
        else
            at = run.first < end ? refcounts_.block_end(run.first) : end;
    }
    if (found.count != 0)
        at = found.first;
    searched = {count, at};
    return found;
}

// A run behind everything in use. The blocks that are to count it are put in
// front of it, so that it stays in one piece. After a crash clusters may be
// counted that lie behind the end of the file.
Result<HostRun> Allocator::make_room_at_end(std::uint64_t count)
{
    HostCluster first = TRY(refcounts_.used_end(file_end()));
    for (;;) {
        HostCluster begin = first;
        // Each block that is missing moves the run one further.
        for (HostCluster c = first; c < begin + count; c = refcounts_.block_end(c))
            if (!refcounts_.covered(c))
                ++begin;
        if (begin + count > refcounts_.reach_end()) {
            TRY(grow_refcount_table());
            first = TRY(refcounts_.used_end(file_end()));
            continue;
        }
        const HostCluster used_end = TRY(refcounts_.used_end(begin + count));
        if (used_end > first) {
            RARE("a run at the end moves behind clusters that are counted there");
            first = used_end;
            continue;
        }
        TRY(grow_store(begin + count));
        not_fresh_before(begin);
        HostCluster at = first;
        for (HostCluster c = first; c < begin + count; c = refcounts_.block_end(c))
            if (!refcounts_.covered(c)) {
                TRY(refcounts_.make_block(c, at));
                ++at;
            }
        return HostRun{begin, count};
    }
}

Result<void> Allocator::raise(const std::deque<HostRun> &runs)
{
    Locked lock(mutex_);
    return raise_durably(runs);
}

void Allocator::lower(HostRun run)
{
    Locked lock(mutex_);
    lower_locked(run);
}

void Allocator::lower_locked(HostRun run)
{
    const Result<void> result = refcounts_.lower(run);
    if (!result)
        log_warning("clusters at {:#x} are not given back: {}",
                    geometry_.offset_of(run.first).value, result.error().what);
    else {
        free_hint_ = std::min(free_hint_, run.first);
        searched_ = searched_for_one_ = {};
    }
}

Result<std::uint64_t> Allocator::refcount(HostCluster cluster)
{
    Locked lock(mutex_);
    return refcounts_.get(cluster);
}

Result<void> Allocator::refcounts(HostCluster first, std::span<std::uint64_t> counts)
{
    Locked lock(mutex_);
    return refcounts_.get(first, counts);
}

std::vector<HostRun> Allocator::last_references(HostRun run)
{
    Locked lock(mutex_);
    std::vector<HostRun> runs;
    for (HostCluster cluster = run.first; cluster < run.end(); ++cluster) {
        const auto count = refcounts_.get(cluster);
        if (!count || *count != 1)
            continue;
        if (!runs.empty() && runs.back().end() == cluster)
            ++runs.back().count;
        else
            runs.push_back({cluster, 1});
    }
    return runs;
}

Result<void> Allocator::settle()
{
    Locked lock(mutex_);
    while (!reserve_.empty()) {
        const HostRun run = reserve_.front();
        reserve_.pop_front();  // first: what cannot be lowered leaks
        lower_locked(run);
    }
    chunk_bytes_ = chunk_bytes_min;
    return refcounts_.write_back();
}

Result<bool> Allocator::counts_behind_end()
{
    Locked lock(mutex_);
    return refcounts_.counts_from(file_end());
}

Result<std::uint64_t> Allocator::used_end()
{
    Locked lock(mutex_);
    const HostCluster end = TRY(refcounts_.used_end(file_end()));
    return geometry_.offset_of(end).value;
}

HostCluster Allocator::fresh_mark() const
{
    Locked lock(mutex_);
    return fresh_mark_;
}

void Allocator::set_fresh_mark(HostCluster mark)
{
    Locked lock(mutex_);
    fresh_mark_ = mark;
}

}  // namespace qcow2
