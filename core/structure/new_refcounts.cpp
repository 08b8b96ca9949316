// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/new_refcounts.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/rare.h"
#include "core/format/findings.h"
#include "core/format/refcount_block.h"
#include "core/format/table_entry.h"
#include "core/structure/count_reader.h"

namespace qcow2 {

namespace {

Error too_low(const Geometry &geometry, HostCluster cluster)
{
    return finding(Finding::refcount_too_low, "cluster at {:#x}",
                   geometry.offset_of(cluster).value);
}

Error too_narrow(const Geometry &geometry, HostCluster cluster)
{
    return Error(
        Errc::unsupported,
        "refcounts of {} bits are too narrow: the cluster at {:#x} would be used too often",
        geometry.refcount_bits(), geometry.offset_of(cluster).value);
}

}  // namespace

Result<void> check_counts(Image &image, const CountChanges &changes)
{
    const Geometry &geometry = image.geometry();
    CountReader counts(image);
    return changes.for_each([&](HostCluster cluster, std::int64_t change) -> Result<void> {
        const std::uint64_t count = TRY(counts.of(cluster));
        const std::uint64_t by = static_cast<std::uint64_t>(change < 0 ? -change : change);
        if (count == 0 || (change < 0 && by > count))
            return too_low(geometry, cluster);
        if (change > 0 && by > geometry.refcount_max() - count)
            return too_narrow(geometry, cluster);
        return {};
    });
}

Result<std::vector<HostOffset>> take_scattered(Image &image, Aside &aside, std::uint64_t count)
{
    std::vector<HostOffset> clusters;
    if (count == 0)
        return clusters;
    const auto run = aside.take(count);
    if (run) {
        for (std::uint64_t i = 0; i < count; ++i)
            clusters.push_back(image.geometry().offset_of(run->first + i));
        return clusters;
    }
    if (run.error().code != Errc::no_space || count == 1)
        return run.error();
    RARE("new clusters are taken in pieces for lack of a run");
    clusters = TRY(take_scattered(image, aside, count / 2));
    const auto rest = TRY(take_scattered(image, aside, count - count / 2));
    clusters.insert(clusters.end(), rest.begin(), rest.end());
    return clusters;
}

NewRefcounts::NewRefcounts(Image &image, Aside &aside, CountChanges &changes)
    : image_(image), aside_(aside), changes_(changes), geometry_(image.geometry())
{
}

Result<void> NewRefcounts::prepare()
{
    // What is taken may need blocks of its own, and a longer table: until all
    // of it is there.
    for (;;) {
        TRY(image_.allocator().settle());
        TRY(load_table());
        find_blocks();
        if (taken_.size() == blocks_.size() && new_table_.count == old_table_.count)
            break;
        TRY(take_missing());
    }
    for (const std::uint64_t index : blocks_)
        changes_.add({geometry_.cluster_of(table_[index]), 1}, -1);
    changes_.add(old_table_, -1);

    std::vector<HostOffset> table = table_;
    std::size_t next = 0;
    for (const std::uint64_t index : blocks_) {
        TRY(write_block(index, taken_[next]).in("new refcount block"));
        table[index] = taken_[next++];
    }
    Buffer bytes(table.size() * 8);
    for (std::size_t i = 0; i < table.size(); ++i)
        store_be64(&bytes[i * 8], table[i].value);
    return image_.store()
        .write(geometry_.offset_of(new_table_.first).value, bytes)
        .in("new refcount table");
}

Result<void> NewRefcounts::load_table()
{
    const Header header = image_.header().header();
    old_table_ = {geometry_.cluster_of(header.refcount_table_offset),
                  header.refcount_table_clusters};
    Buffer raw(old_table_.count * geometry_.cluster_size());
    TRY(image_.store().read(header.refcount_table_offset.value, raw).in("refcount table"));
    table_.clear();
    for (std::size_t i = 0; i < raw.size(); i += 8)
        table_.push_back(TRY(decode_refcount_table_entry(load_be64(&raw[i]), geometry_)));
    return {};
}

// Those in which counts change, also because the old ones of them go.
void NewRefcounts::find_blocks()
{
    std::vector<std::uint64_t> wanted;
    std::uint64_t last = ~std::uint64_t(0);
    const auto want = [&](HostCluster cluster) {
        if (index_of(cluster) != last)
            wanted.push_back(last = index_of(cluster));
    };
    (void)changes_.for_each([&](HostCluster cluster, std::int64_t) -> Result<void> {
        want(cluster);
        return {};
    });
    for (std::uint64_t i = 0; i < old_table_.count; ++i)
        want(old_table_.first + i);
    while (!wanted.empty()) {
        const std::uint64_t index = wanted.back();
        wanted.pop_back();
        // check_counts() has seen that these are counted.
        if (blocks_.insert(index).second && index < table_.size() && table_[index].value != 0)
            wanted.push_back(index_of(geometry_.cluster_of(table_[index])));
    }
}

Result<void> NewRefcounts::take_missing()
{
    if (new_table_.count != old_table_.count) {
        changes_.add(new_table_, -1);  // too short by now
        new_table_ = TRY(aside_.take(old_table_.count));
    }
    const auto more = TRY(take_scattered(image_, aside_, blocks_.size() - taken_.size()));
    taken_.insert(taken_.end(), more.begin(), more.end());
    return {};
}

Result<void> NewRefcounts::write_block(std::uint64_t index, HostOffset to)
{
    const HostCluster first(index << geometry_.refcount_block_bits());
    if (index >= table_.size() || table_[index].value == 0)
        return too_low(geometry_, first);
    Buffer block(geometry_.cluster_size());
    TRY(image_.store().read(table_[index].value, block));
    TRY(changes_.for_each(first, first + geometry_.refcount_block_entries(),
                          [&](HostCluster cluster, std::int64_t change) -> Result<void> {
                              const std::uint64_t entry = cluster - first;
                              const std::uint64_t old =
                                  load_refcount(block, geometry_.refcount_order, entry);
                              const std::uint64_t count = old + static_cast<std::uint64_t>(change);
                              if (change < 0 && old < static_cast<std::uint64_t>(-change))
                                  return too_low(geometry_, cluster);
                              if (change > 0 && (count < old || count > geometry_.refcount_max()))
                                  return too_narrow(geometry_, cluster);
                              store_refcount(block, geometry_.refcount_order, entry, count);
                              if (count == 0)
                                  note_free(cluster);
                              return {};
                          }));
    return image_.store().write(to.value, block);
}

void NewRefcounts::note_free(HostCluster cluster)
{
    if (!free_.empty() && free_.back().end() == cluster)
        ++free_.back().count;
    else
        free_.push_back({cluster, 1});
}

void NewRefcounts::apply(Header &header) const
{
    header.refcount_table_offset = geometry_.offset_of(new_table_.first);
    header.refcount_table_clusters = static_cast<std::uint32_t>(new_table_.count);
}

void NewRefcounts::give_back() const
{
    for (const HostRun &run : free_) {
        const HostOffset offset = geometry_.offset_of(run.first);
        const std::uint64_t end =
            std::min(geometry_.offset_of(run.end()).value, image_.store().size());
        if (offset.value >= end)
            continue;
        if (const auto done = image_.store().discard(offset.value, end - offset.value); !done)
            log_debug("discard: {}", done.error().what);
    }
}

Result<void> commit_with_counts(Image &image, Aside &aside, CountChanges &changes,
                                const ImageHeader::Change &change, const BecomeAlone &become_alone)
{
    for (const HostRun &run : aside.take_replaced())
        changes.add(run, -1);
    NewRefcounts counts(image, aside, changes);
    TRY(counts.prepare());
    if (become_alone)
        TRY(become_alone());
    TRY(aside.commit([&](HeaderArea &area) {
        change(area);
        counts.apply(area.header);
    }));
    counts.give_back();
    return {};
}

}  // namespace qcow2
