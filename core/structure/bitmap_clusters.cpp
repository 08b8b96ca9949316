// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/bitmap_clusters.h"

#include "core/base/log.h"
#include "core/bitmap/bitmap_data.h"
#include "core/format/findings.h"
#include "core/image/snapshots.h"

namespace qcow2 {

Result<BitmapClusters> BitmapClusters::of(Image &image, const BitmapDirectory &directory)
{
    BitmapClusters clusters(image, directory.clusters());
    const auto count = [&](const HostRun &run) {
        for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
            ++clusters.uses_[cluster];
    };
    count(directory.clusters());
    for (const BitmapDirectoryEntry &entry : directory.entries) {
        const auto runs = clusters.runs_of(entry);
        if (!runs && runs.error().code == Errc::io)
            return runs.error();
        if (runs)
            for (const HostRun &run : *runs)
                count(run);
    }
    TRY(clusters.count_tables());
    return clusters;
}

// Whatever else is there, as far as bitmaps or their directory have a cluster of it.
void BitmapClusters::count_other(HostRun run)
{
    for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
        if (const auto uses = uses_.find(cluster); uses != uses_.end())
            ++uses->second;
}

// A table of words that name tables of one cluster each, and what it names.
Result<void> BitmapClusters::count_table(HostOffset offset, std::uint64_t entries)
{
    const Geometry &geometry = image_.geometry();
    if (!fits(offset.value, entries * 8, image_.store().size()))
        return {};  // that is told elsewhere
    count_other({geometry.cluster_of(offset), geometry.clusters_for(entries * 8)});
    Buffer raw(entries * 8);
    TRY(image_.store().read(offset.value, raw).in("table at " + hex(offset.value)));
    for (std::uint64_t i = 0; i < entries; ++i)
        if (const HostOffset named(load_be64(&raw[i * 8]) & entry_offset_mask); named.value != 0)
            count_other({geometry.cluster_of(named), 1});
    return {};
}

Result<void> BitmapClusters::count_tables()
{
    const Geometry &geometry = image_.geometry();
    const Header header = image_.header().header();
    count_other({HostCluster(0), 1});
    TRY(count_table(header.refcount_table_offset, header.refcount_table_clusters * geometry.cluster_size() / 8));
    TRY(count_table(header.l1_table_offset, header.l1_size));
    const auto snapshots = load_snapshots(image_.store(), header);
    if (!snapshots)
        return snapshots.error().code == Errc::io ? snapshots.error() : Result<void>();
    if (!snapshots->snapshots.empty())
        count_other({geometry.cluster_of(header.snapshots_offset), geometry.clusters_for(snapshots->encoded_size)});
    for (const Snapshot &snapshot : snapshots->snapshots)
        if (!snapshot.finding)
            TRY(count_table(snapshot.l1_table_offset, snapshot.l1_size));
    return {};
}

Result<std::vector<HostRun>> BitmapClusters::runs_of(const BitmapDirectoryEntry &entry) const
{
    const Geometry &geometry = image_.geometry();
    if (entry.bitmap_table_offset.value == 0 || !geometry.is_aligned(entry.bitmap_table_offset))
        return finding(Finding::bitmap_table_unaligned);
    std::vector<HostRun> runs = {{geometry.cluster_of(entry.bitmap_table_offset),
                                  geometry.clusters_for(std::uint64_t(entry.bitmap_table_size) * 8)}};
    for (const BitmapTableEntry &e : TRY(load_bitmap_table(image_, entry)))
        if (e.has_cluster())
            runs.push_back({geometry.cluster_of(e.data), 1});
    return runs;
}

Result<bool> BitmapClusters::owns(const std::vector<HostRun> &runs) const
{
    for (const HostRun &run : runs)
        for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
            if (const auto uses = uses_.find(cluster); uses == uses_.end() || uses->second != 1 ||
                TRY(image_.allocator().refcount(cluster)) != 1)
                return false;
    return true;
}

void BitmapClusters::release(Aside &aside, const BitmapDirectoryEntry &entry) const
{
    const auto runs = runs_of(entry);
    const auto owned = runs ? owns(*runs) : false;
    if (!owned || !*owned) {
        log_warning("bitmap " + quote(entry.name) + ": its clusters cannot be told from others' and "
                    "are not given back; 'qcow2-check=leaks' frees them");
        return;
    }
    for (const HostRun &run : *runs)
        aside.replace(run);
}

Result<void> BitmapClusters::check(const BitmapDirectoryEntry &entry) const
{
    const Geometry &geometry = image_.geometry();
    for (const HostRun &run : TRY(runs_of(entry))) {
        const std::string place = hex(geometry.offset_of(run.first).value);
        if (geometry.offset_of(run.first).value >= image_.store().size())
            return finding(Finding::bitmap_data_past_end, place);
        for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
            if (uses_.at(cluster) != 1)
                return finding(Finding::tables_overlap, place);
    }
    return {};
}

Result<std::vector<BitmapTableEntry>> BitmapClusters::own_table(const BitmapDirectoryEntry &entry) const
{
    const Geometry &geometry = image_.geometry();
    const BitmapSize size = size_of(image_, entry);
    const Error no_space(Errc::no_space, "there is no room for a new table, and the old one cannot be trusted");
    if (entry.bitmap_table_size != size.table_entries)
        return no_space;
    const auto runs = runs_of(entry);
    if (!runs)
        return runs.error().code == Errc::io ? runs.error() : no_space;
    for (const HostRun &run : *runs)
        if (!fits(geometry.offset_of(run.first).value, run.count << geometry.cluster_bits, image_.store().size()))
            return no_space;
    if (!TRY(owns(*runs)))
        return no_space;
    return load_bitmap_table(image_, entry);
}

}  // namespace qcow2
