// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/bitmap_clusters.h"

#include "core/base/covered.h"
#include "core/base/log.h"
#include "core/base/table_reader.h"
#include "core/bitmap/bitmap_data.h"
#include "core/format/findings.h"
#include "core/format/limits.h"
#include "core/image/snapshots.h"

namespace qcow2 {

namespace {

HostRun table_run(const Geometry &geometry, const BitmapDirectoryEntry &entry)
{
    return {geometry.cluster_of(entry.bitmap_table_offset),
            geometry.clusters_for(std::uint64_t(entry.bitmap_table_size) * 8)};
}

}  // namespace

// Where tables lie one over the other none is followed twice, however many they are:
// what they name has two names then.
Result<BitmapClusters> BitmapClusters::of(Image &image, const BitmapDirectory &directory)
{
    BitmapClusters clusters(image, directory.clusters());
    const Geometry &geometry = image.geometry();
    clusters.count(directory.clusters(), 1);
    std::vector<Range> tables, table_clusters;
    for (const BitmapDirectoryEntry &entry : directory.entries)
        if (clusters.check_table(entry)) {
            tables.push_back(Range::of(entry.bitmap_table_offset.value,
                                       std::uint64_t(entry.bitmap_table_size) * 8));
            table_clusters.push_back(tables.back().touched(geometry.cluster_size()));
        }
    for (const Covered &part : covered(table_clusters))
        clusters.count({HostCluster(part.range.begin), part.range.length()}, part.times);
    for (const Covered &part : covered(tables)) {
        BitmapDirectoryEntry entry;
        entry.bitmap_table_offset = HostOffset(part.range.begin);
        entry.bitmap_table_size = static_cast<std::uint32_t>(part.range.length() / 8);
        const auto named = load_bitmap_clusters(image, entry);
        if (!named && named.error().code == Errc::io)
            return named.error();
        if (named)
            for (const HostRun &data : *named)
                clusters.count(data, part.times);
    }
    TRY(clusters.count_tables());
    return clusters;
}

void BitmapClusters::count(HostRun run, std::uint64_t times)
{
    if (times > 1)
        several_.add(run);
    else if (used_.overlaps(run))
        several_of(run);
    used_.add(run);
}

void BitmapClusters::several_of(HostRun run)
{
    for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
        if (used_.overlaps({cluster, 1}))
            several_.add({cluster, 1});
}

// Whatever else is there, as far as bitmaps or their directory have a cluster of it.
void BitmapClusters::count_other(HostRun run)
{
    if (used_.overlaps(run))
        several_of(run);
}

// A table of words that name tables of one cluster each, and what it names.
Result<void> BitmapClusters::count_table(HostOffset offset, std::uint64_t entries)
{
    const Geometry &geometry = image_.geometry();
    if (!fits(offset.value, entries * 8, image_.store().size()))
        return {};  // that is told elsewhere
    count_other({geometry.cluster_of(offset), geometry.clusters_for(entries * 8)});
    const auto visit = [&](std::uint64_t, std::uint64_t raw, std::uint64_t) -> Result<void> {
        if (const HostOffset named(raw & entry_offset_mask); named.value != 0)
            count_other({geometry.cluster_of(named), 1});
        return {};
    };
    TableBuffer buffer;
    return for_each_entry(image_.store(), buffer, offset.value, entries, 8, visit)
        .in("table at {:#x}", offset.value);
}

Result<void> BitmapClusters::count_tables()
{
    const Geometry &geometry = image_.geometry();
    const Header header = image_.header().header();
    count_other({HostCluster(0), 1});
    TRY(count_table(header.refcount_table_offset,
                    header.refcount_table_clusters * geometry.cluster_size() / 8));
    TRY(count_table(header.l1_table_offset, header.l1_size));
    const auto snapshots = load_snapshots(image_.store(), header);
    if (!snapshots)
        return snapshots.error().code == Errc::io ? snapshots.error() : Result<void>();
    if (!snapshots->snapshots.empty())
        count_other({geometry.cluster_of(header.snapshots_offset),
                     geometry.clusters_for(snapshots->encoded_size)});
    for (const Snapshot &snapshot : snapshots->snapshots)
        if (!snapshot.finding)
            TRY(count_table(snapshot.l1_table_offset, snapshot.l1_size));
    return {};
}

Result<void> BitmapClusters::check_table(const BitmapDirectoryEntry &entry) const
{
    const Geometry &geometry = image_.geometry();
    if (entry.bitmap_table_offset.value == 0 || !geometry.is_aligned(entry.bitmap_table_offset))
        return finding(Finding::bitmap_table_unaligned);
    const std::uint64_t bytes = std::uint64_t(entry.bitmap_table_size) * 8;
    if (entry.bitmap_table_size > limits::bitmap_data_bytes_max >> geometry.cluster_bits)
        return finding(Finding::bitmap_table_size_wrong);
    return fits(entry.bitmap_table_offset.value, bytes, image_.store().size())
               ? Result<void>()
               : finding(Finding::bitmap_table_past_end);
}

Result<std::vector<HostRun>> BitmapClusters::runs_of(const BitmapDirectoryEntry &entry) const
{
    TRY(check_table(entry));
    std::vector<HostRun> runs = {table_run(image_.geometry(), entry)};
    if (several_.overlaps(runs[0]))
        return runs;  // that is enough to know
    const std::vector<HostRun> data = TRY(load_bitmap_clusters(image_, entry));
    runs.insert(runs.end(), data.begin(), data.end());
    return runs;
}

Result<bool> BitmapClusters::owns(const std::vector<HostRun> &runs) const
{
    for (const HostRun &run : runs) {
        if (several_.overlaps(run))
            return false;
        for (HostCluster cluster = run.first; cluster < run.end(); ++cluster)
            if (!used_.overlaps({cluster, 1}) || TRY(image_.allocator().refcount(cluster)) != 1)
                return false;
    }
    return true;
}

void BitmapClusters::release(Aside &aside, const BitmapDirectoryEntry &entry)
{
    const auto runs = runs_of(entry);
    const auto owned = runs ? owns(*runs) : false;
    if (!owned || !*owned) {
        leaked_.say("{}: its clusters cannot be told from others' and "
                    "are not given back; 'qcow2-check=leaks' frees them",
                    words_for_bitmap(entry.name));
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
        if (several_.overlaps(run))
            return finding(Finding::tables_overlap, place);
    }
    return {};
}

Result<std::vector<BitmapTableEntry>> BitmapClusters::own_table(
    const BitmapDirectoryEntry &entry) const
{
    const Geometry &geometry = image_.geometry();
    const BitmapSize size = size_of(image_, entry);
    const Error no_space(Errc::no_space,
                         "there is no room for a new table, and the old one cannot be trusted");
    if (entry.bitmap_table_size != size.table_entries)
        return no_space;
    const auto runs = runs_of(entry);
    if (!runs)
        return runs.error().code == Errc::io ? runs.error() : no_space;
    for (const HostRun &run : *runs)
        if (!fits(geometry.offset_of(run.first).value, run.count << geometry.cluster_bits,
                  image_.store().size()))
            return no_space;
    if (!TRY(owns(*runs)))
        return no_space;
    return load_bitmap_table(image_, entry);
}

}  // namespace qcow2
