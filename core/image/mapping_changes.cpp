// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Mapping: changing it. Names of clusters come and go here, in memory; the write-back brings
// them to the file (image_write_back.cpp).
//
// update() changes the entries of one piece of one L2 table. It decodes and checks all of them
// first, and collects what they are to be; then it tells the cache that the piece is about to
// change, the last thing that can fail; then it writes the words. So a change is made as a
// whole or not at all, and no released cluster is forgotten for lack of memory. The lookaside
// forgets each cluster before its word is changed.
//
// A cluster whose name goes is *released*: it is put on a list and nothing else is done with
// it. The file may still name it, and readers may still be at it; the list goes through the
// write-back, which lowers the refcounts when both are over (W3).
//
// make_table() gives a cluster an L2 table that only the active disk names, where there was
// none, or one that a snapshot shares. The table is filled and written before the L1 entry
// changes in memory, so that each of its pieces can be read from the file at once; the L1
// entry itself waits for the write-back. A RangeLock over L1 indices makes the second of two
// threads wait for the first, instead of making another table; the lock of the mapping could
// not be held meanwhile, as clusters are taken and bytes are written. What was the case before
// that wait is looked at again. The copy of a shared table keeps bit 63 of an entry only where
// the refcount is 1 (W6): under a shared table nobody has kept the bit true.
//
// grow_l1() is a structural change of its own (H1): the new table is written aside, made
// durable, and the header names it. Nobody else uses the mapping then.

#include <algorithm>

#include "core/format/findings.h"
#include "core/format/l2_table.h"
#include "core/format/limits.h"
#include "core/image/mapping.h"

namespace qcow2 {

Result<void> Mapping::make_table(GuestCluster cluster)
{
    const std::uint64_t index = geometry_.l1_index(cluster);
    {
        Locked lock(cache_.mutex);
        INVARIANT(index < l1_.size());
        if (l1_[index].own())
            return {};
    }
    RangeLock::Guard guard(tables_, Range::of(index, 1));
    L1Entry old;
    {
        Locked lock(cache_.mutex);
        old = l1_[index];
    }
    if (old.own())
        return {};

    // W1, W2: refcount and table are written now, and the L1 entry not before the
    // next flush.
    const Allocator::Taken taken = TRY(allocator_.take(1));
    const HostOffset table = geometry_.offset_of(taken.run.first);
    Result<void> result = fill_table(table, old);
    if (result && !metadata_.add(taken.run))
        result = finding(Finding::tables_overlap, "new L2 table at {:#x}", table.value);
    if (!result) {
        allocator_.give_back(taken.run);
        return std::move(result).in("new L2 table at {:#x}", table.value);
    }

    Locked lock(cache_.mutex);
    cache_.forget(table, geometry_.cluster_size());
    const HostRun released{geometry_.cluster_of(old.l2_table()), 1};
    l1_.before_change(index);
    if (old.present())
        released_.push_back(released);
    // From here on nothing fails: an entry that changed is in a dirty sector.
    l1_.change(index, L1Entry::of(table, true));
    if (old.present()) {
        lookaside_.forget(GuestCluster(index * geometry_.l2_entries()), geometry_.l2_entries());
        metadata_.remove(released);  // it is a snapshot's now, or nobody's
    }
    return {};
}

// The new table says what the old one says. Bit 63 stays only where it is
// true: under a shared table nobody has kept it so (W6). Nobody counts the
// clusters of an external data file, and nobody shares them.
//
// It is written even where it reads as zeros already: so the file system has
// given it room, and no flush fails later for the lack of it.
Result<void> Mapping::fill_table(HostOffset table, L1Entry old)
{
    if (!old.present() && geometry_.cluster_size() <= zeros.size())
        return store_.write(table.value, Bytes(zeros).first(geometry_.cluster_size()));
    Buffer bytes(geometry_.cluster_size());
    if (old.present())
        TRY(store_.read(old.l2_table().value, bytes));
    if (old.present() && !geometry_.data_file) {
        for (std::size_t at = 0; at < bytes.size(); at += geometry_.l2_entry_bytes()) {
            const std::uint64_t raw = load_be64(&bytes[at]);
            if (!(raw & entry_copied))
                continue;
            const HostCluster host = geometry_.cluster_of(HostOffset(raw & entry_offset_mask));
            if (TRY(allocator_.refcount(host)) != 1)
                store_be64(&bytes[at], raw & ~entry_copied);
        }
    }
    return store_.write(table.value, bytes);
}

Result<void> Mapping::grow_l1(std::uint64_t entries)
{
    L1Table l1(geometry_);
    {
        Locked lock(cache_.mutex);
        INVARIANT(entries > l1_.size() && !l1_.is_dirty());
        l1 = l1_;
    }
    if (entries > limits::l1_bytes_max / 8)
        return finding(Finding::l1_table_too_large);
    const HostRun old = l1.clusters();
    const HostRun run = TRY(allocator_.take_contiguous(geometry_.clusters_for(entries * 8)));
    l1.move_to(geometry_.offset_of(run.first), entries);
    Buffer bytes = l1.bytes();
    bytes.resize(run.count * geometry_.cluster_size());
    const auto publish = [&]() -> Result<void> {
        TRY(store_.write(l1.offset().value, bytes));
        TRY(store_.flush());
        return header_.commit([&](HeaderArea &area) {  // H1
            area.header.l1_table_offset = l1.offset();
            area.header.l1_size = static_cast<std::uint32_t>(entries);
        });
    };
    metadata_.add(run);
    Result<void> result = publish();
    if (!result) {
        if (header_.certain()) {
            metadata_.remove(run);
            allocator_.give_back(run);
        }
        return std::move(result).in("new L1 table at {:#x}", l1.offset().value);
    }
    {
        Locked lock(cache_.mutex);
        l1_ = std::move(l1);
    }
    metadata_.remove(old);
    allocator_.lower(old);
    return {};
}

Result<std::uint64_t> Mapping::update(GuestCluster first, std::uint64_t count, const Change &change)
{
    Locked lock(cache_.mutex);
    const L1Entry l1 = l1_.of(first);
    INVARIANT(l1.own());  // and stays so while the caller holds the range
    const HostOffset place = entry_place(l1, first);
    const MutableBytes piece = TRY(cache_.get(place));
    const std::uint64_t begin = place.value % cache_.piece_bytes();
    count = std::min(count, (piece.size() - begin) / geometry_.l2_entry_bytes());
    const auto word = [&](std::uint64_t i) {
        return &piece[begin + i * geometry_.l2_entry_bytes()];
    };

    struct Step {
        ClusterMapping was, is;
    };
    std::vector<Step> steps;
    steps.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) {
        ClusterMapping was = TRY(decode(word(i), first + i));
        ClusterMapping is = change(first + i, was);
        if (is != was)
            TRY(check_own(was, 1, geometry_.offset_of(first + i)));
        steps.push_back({std::move(was), std::move(is)});
    }
    if (std::ranges::all_of(steps, [](const Step &step) { return step.is == step.was; }))
        return count;
    cache_.before_change(place);
    // From here on nothing fails.
    for (std::uint64_t i = 0; i < count; ++i) {
        if (steps[i].is == steps[i].was)
            continue;
        lookaside_.forget(first + i, 1);
        encode(steps[i].is, word(i));
        release(steps[i].was, steps[i].is);
    }
    return count;
}

// The clusters whose name is gone.
void Mapping::release(const ClusterMapping &was, const ClusterMapping &is)
{
    const HostRun names = named_clusters(was, geometry_);
    if (names.count == 0)
        return;
    if (!std::holds_alternative<Compressed>(was) && host_cluster(was) == host_cluster(is))
        return;
    if (!released_.empty() && released_.back().end() == names.first)
        released_.back().count += names.count;
    else
        released_.push_back(names);
}

// Asked after each change, also of those that make nothing dirty: no lock.
bool Mapping::wants_write_back() const { return cache_.dirty_bytes() > dirty_bytes_max_; }

bool Mapping::has_released() const
{
    Locked lock(cache_.mutex);
    return !released_.empty();
}

Mapping::Sealed Mapping::seal()
{
    Locked lock(cache_.mutex);
    Sealed sealed;
    sealed.l1 = l1_.dirty_sectors();
    sealed.lost_names = store_.holds();
    // From here on there is nothing that could fail.
    sealed.l2 = cache_.seal();
    sealed.l1_sectors = l1_.take_dirty();
    sealed.released.swap(released_);
    return sealed;
}

Result<void> Mapping::write(const Sealed &sealed)
{
    TRY(cache_.write(sealed.l2).in("L2"));
    for (const L1Table::Sector &sector : sealed.l1)
        TRY(write_table(store_, sector.offset, sector.bytes).in("L1"));
    return {};
}

void Mapping::unseal(Sealed &&sealed, bool written)
{
    Locked lock(cache_.mutex);
    cache_.unseal(sealed.l2, written);
    if (written)
        return;
    l1_.put_back_dirty(std::move(sealed.l1_sectors));
    // Without memory for it some clusters leak.
    released_.insert(released_.end(), sealed.released.begin(), sealed.released.end());
}

}  // namespace qcow2
