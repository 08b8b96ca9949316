// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/metadata_map.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>

namespace qcow2 {

namespace {

// Calls visit(index of the word, its bits) for a run of bits, which goes round,
// until that says false.
template <class Visit>
void for_each_word(HostRun run, std::size_t words, Visit visit)
{
    constexpr std::uint64_t word_bits = 64;
    // More than once round there is nothing new.
    std::uint64_t left = std::min<std::uint64_t>(run.count, words * word_bits);
    for (std::uint64_t at = run.first.value; left != 0;) {
        const std::uint64_t bit = at % word_bits;
        const std::uint64_t bits = std::min(word_bits - bit, left);
        if (!visit(at / word_bits % words, ~std::uint64_t(0) >> (word_bits - bits) << bit))
            return;
        at += bits;
        left -= bits;
    }
}

}  // namespace

MetadataMap::MetadataMap()
    : filter_(static_cast<std::uint64_t *>(std::calloc(filter_words, sizeof(std::uint64_t))))
{
    if (!filter_)
        throw std::bad_alloc();
}

void MetadataMap::note(HostRun run)
{
    for_each_word(run, filter_words, [&](std::uint64_t index, std::uint64_t bits) {
        std::atomic_ref(filter_[index]).fetch_or(bits, std::memory_order_release);
        return true;
    });
}

bool MetadataMap::may_overlap(HostRun run) const
{
    bool found = false;
    for_each_word(run, filter_words, [&](std::uint64_t index, std::uint64_t bits) {
        found = std::atomic_ref(filter_[index]).load(std::memory_order_acquire) & bits;
        return !found;
    });
    return found;
}

bool MetadataMap::add(HostRun run)
{
    std::unique_lock lock(mutex_);
    note(run);
    const bool shared = snapshots_.overlaps(run);
    return own_.add(run) && !shared;
}

bool MetadataMap::add_l2_table(HostCluster cluster)
{
    std::unique_lock lock(mutex_);
    note({cluster, 1});
    return own_.add({cluster, 1});
}

bool MetadataMap::add_snapshot_l2_table(HostCluster cluster)
{
    std::unique_lock lock(mutex_);
    note({cluster, 1});
    snapshots_.add({cluster, 1});
    return !own_.overlaps({cluster, 1});
}

void MetadataMap::remove(HostRun run)
{
    std::unique_lock lock(mutex_);
    own_.remove(run);
}

bool MetadataMap::overlaps(HostRun run) const
{
    if (!may_overlap(run))
        return false;
    std::shared_lock lock(mutex_);
    return own_.overlaps(run) || snapshots_.overlaps(run);
}

bool MetadataMap::overlaps_own(HostRun run) const
{
    std::shared_lock lock(mutex_);
    return own_.overlaps(run);
}

}  // namespace qcow2
