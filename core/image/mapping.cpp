// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Mapping: looking things up. (mapping_changes.cpp changes them.)
//
// One lock, that of the table cache, covers the L1 table and all pieces of L2 tables: who
// follows an L1 entry to an L2 entry sees both as of one moment. Three things make that
// harder, and faster, than it sounds.
//
// The lock is released while a piece is read from the file (TableCache::get). Then all that
// was known under it may have changed, the L1 entry, too. So load() is a loop: it looks up the
// L1 entry, and if the piece is not in its window, gets it and begins again. It ends when
// entry and piece were seen without a release in between. A Window is the piece that was seen
// last; its bytes are good while nobody else gets the lock, so it lives on the stack of one
// map() and is thrown away whenever load() has to get another piece.
//
// A request wants runs, not clusters: one call to the file below for what lies side by side
// there. map_locked() walks part by part (a part is a cluster, or with extended L2 entries a
// subcluster) as long as each continues the run, and takes two short cuts: where an L1 entry
// is empty it skips all that the entry would lead to, and inside a window it compares words,
// without decoding (alike_behind). A run ends early, and never wrongly, where an entry cannot
// be decoded: whoever asks for that place itself is told what is wrong.
//
// Most requests are for a part of one cluster that somebody looked up lately. For them there
// is the Lookaside: one word for each of many clusters, read without the lock. It may say
// nothing, but never anything untrue of the moment when it is read: put() happens under the
// lock under which the entry was read, and forget() under the lock under which the entry is
// changed, before that change is over. A reader that reads the word just before lands on a
// cluster whose name is about to go; that is the reader for which the write-back waits
// (DataPath::drain, W3).
//
// Images lie, and files are cut. An entry that leads behind the end of the file is an error
// for whoever reads it. But if the file grows it would lead somewhere, and no one could tell
// any more that the bytes there are not what was lost (W7). So the first lookup that meets it
// puts it out of reach (bit 55), in the cache, and holds all growth until the write-back has
// made that durable.

#include "core/image/mapping.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/rare.h"
#include "core/format/findings.h"
#include "core/format/l2_table.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

// This part of the cache may be dirty.
constexpr std::uint64_t dirty_share = 2;

// And this part of its memory is the lookaside's.
constexpr std::uint64_t lookaside_share = 32;

void clear_copied(ClusterMapping &mapping)
{
    if (auto *data = std::get_if<Data>(&mapping))
        data->copied = false;
    else if (auto *zero = std::get_if<Zero>(&mapping))
        zero->copied = false;
    else if (auto *parts = std::get_if<Subclusters>(&mapping))
        parts->copied = false;
}

// Where a cluster was, also if its name was put out of reach.
HostOffset was_at(HostOffset host, bool compressed, const Geometry &geometry)
{
    const HostOffset far = out_of_reach_from(compressed, geometry);
    return host < far ? host : HostOffset(host - far);
}

// What the data path sees of part k of a cluster.
ClusterMapping part_of(const ClusterMapping &mapping, std::uint64_t k)
{
    const auto *parts = std::get_if<Subclusters>(&mapping);
    return parts ? parts->part(static_cast<std::uint32_t>(k)) : mapping;
}

// Whether `next`, in the cluster that lies so many bytes behind the first one of
// the run, goes on where the run ends.
bool continues(const ClusterMapping &run, std::uint64_t bytes, const ClusterMapping &next)
{
    if (const auto *data = std::get_if<Data>(&run))
        return next == ClusterMapping(Data{data->host + bytes, data->copied});
    if (const auto *zero = std::get_if<Zero>(&run))
        return zero->has_cluster() ? next == ClusterMapping(Zero{zero->host + bytes, zero->copied})
                                   : next == run;
    // The parts of one compressed cluster go together.
    return next == run && (bytes == 0 || std::holds_alternative<Unallocated>(run));
}

}  // namespace

Mapping::Mapping(GuardedStore &store, ImageHeader &header, MetadataMap &metadata,
                 Allocator &allocator, std::uint64_t cache_bytes)
    : store_(store),
      header_(header),
      metadata_(metadata),
      allocator_(allocator),
      geometry_(header.header().geometry()),
      dirty_bytes_max_(std::max<std::uint64_t>(cache_bytes / dirty_share, 64 << 10)),
      cache_(store, Rank::mapping, std::min<std::uint64_t>(geometry_.cluster_size(), 4096),
             cache_bytes - cache_bytes / lookaside_share),
      lookaside_(geometry_, geometry_.clusters_for(header.header().size),
                 cache_bytes / lookaside_share),
      l1_(geometry_)
{
}

Result<void> Mapping::open(HostOffset offset, std::uint32_t l1_size)
{
    L1Table l1 = TRY(L1Table::load(store_, geometry_, offset, l1_size));
    l1.for_each([&](std::uint64_t i, L1Entry read) {
        Result<void> entry = check_l1_entry(read, geometry_, store_);
        if (entry && read.present() &&
            !metadata_.add_l2_table(geometry_.cluster_of(read.l2_table())))
            entry = finding(Finding::tables_overlap, "L2 table at {:#x}", read.l2_table().value);
        if (!entry && !why_read_only_)
            why_read_only_ =
                std::move(entry).in("L1 table at {:#x}, entry {}", offset.value, i).error();
    });
    Locked lock(cache_.mutex);
    l1_ = std::move(l1);
    return {};
}

Result<void> Mapping::reload()
{
    Locked lock(cache_.mutex);
    L1Table l1 =
        TRY(L1Table::load(store_, geometry_, l1_.offset(), static_cast<std::uint32_t>(l1_.size())));
    std::vector<HostOffset> tables;
    l1_.for_each([&](std::uint64_t, L1Entry entry) {
        if (entry.present())
            tables.push_back(entry.l2_table());
    });
    for (const HostOffset &table : tables)
        cache_.forget(table, geometry_.cluster_size());
    l1_ = std::move(l1);
    lookaside_.forget_all();
    return {};
}

HostOffset Mapping::entry_place(L1Entry l1, GuestCluster cluster) const
{
    return l1.l2_table() + geometry_.l2_index(cluster) * geometry_.l2_entry_bytes();
}

Result<ClusterMapping> Mapping::decode(const std::uint8_t *entry, GuestCluster cluster) const
{
    const auto where = [&] {
        return formatted("guest offset {:#x}", geometry_.offset_of(cluster).value);
    };
    Result<ClusterMapping> mapping =
        geometry_.extended_l2
            ? decode_extended_l2_entry({load_be64(entry), load_be64(entry + 8)}, geometry_)
            : decode_l2_entry(load_be64(entry), geometry_);
    if (!mapping)
        return std::move(mapping).in(where());
    if (geometry_.data_file) {
        TRY(check_place_in_data_file(*mapping, geometry_.offset_of(cluster)).in(where()));
        return mapping;
    }
    const auto *compressed = std::get_if<Compressed>(&*mapping);
    const HostOffset host = compressed ? compressed->host : host_cluster(*mapping);
    if (host.value >= store_.size())
        return finding(Finding::data_cluster_past_end, "{}, host offset {:#x}", where(),
                       was_at(host, compressed, geometry_).value);
    return mapping;
}

void Mapping::encode(const ClusterMapping &mapping, std::uint8_t *entry) const
{
    if (!geometry_.extended_l2)
        return store_be64(entry, encode_l2_entry(mapping, geometry_));
    const ExtendedL2Entry raw = encode_extended_l2_entry(mapping, geometry_);
    store_be64(entry, raw.descriptor);
    store_be64(entry + 8, raw.subclusters);
}

// The cluster's entry, decoded, from the window if it is there. Else the lock
// is released while a table is read.
Result<ClusterMapping> Mapping::load(GuestCluster cluster, Window &window)
{
    for (;;) {
        const L1Entry l1 = l1_.of(cluster);
        if (!l1.present())
            return geometry_.extended_l2 ? ClusterMapping(Subclusters{}) : Unallocated{};
        const HostOffset place = entry_place(l1, cluster);
        if (place < window.begin || place - window.begin >= window.bytes.size()) {
            if (const auto checked = check_l1_entry(l1, geometry_, store_); !checked)
                return Error(checked.error())
                    .in("guest offset {:#x}", geometry_.offset_of(cluster).value);
            window.bytes = TRY(cache_.get(place));
            window.begin = HostOffset(align_down(place.value, cache_.piece_bytes()));
            continue;
        }
        std::uint8_t *const entry = &window.bytes[place - window.begin];
        Result<ClusterMapping> mapping = decode(entry, cluster);
        if (!mapping)
            put_out_of_reach(place, entry);
        else if (!l1.copied())
            clear_copied(*mapping);
        return mapping;
    }
}

// An entry that could not be decoded: if that is because it leads behind the end
// of the file, nothing that comes there may be taken for what was lost.
void Mapping::put_out_of_reach(HostOffset place, std::uint8_t *entry)
{
    const std::uint64_t raw = load_be64(entry);
    const auto mapping = decode_l2_entry(raw, geometry_);
    if (!writing_ || !mapping || geometry_.data_file)
        return;
    const auto *compressed = std::get_if<Compressed>(&*mapping);
    const HostOffset host = compressed ? compressed->host : host_cluster(*mapping);
    if (host.value < store_.size() || host >= out_of_reach_from(compressed, geometry_))
        return;
    RARE("a name that leads behind the end is put out of reach (W7)");
    cache_.before_change(place);
    store_be64(entry, put_l2_entry_out_of_reach(raw, geometry_));
    store_.hold_growth();
    log_debug("L2 entry at {:#x}: {:#x} leads behind the end of the file; it is put out of reach",
              place.value, raw);
}

// How many clusters behind this one, which was loaded, continue its run, as far
// as the window shows.
std::uint64_t Mapping::alike_behind(GuestCluster cluster, std::uint64_t clusters_max,
                                    const Window &window) const
{
    if (geometry_.extended_l2)
        return 0;
    const std::uint64_t at = entry_place(l1_.of(cluster), cluster) - window.begin;
    const std::uint64_t bytes = std::min((clusters_max + 1) * 8, window.bytes.size() - at);
    const std::uint64_t host_end = geometry_.data_file
                                       ? limits::host_offset_end
                                       : std::min(store_.size(), limits::host_offset_end);
    return run_of_entries(sub(Bytes(window.bytes), at, bytes), HostOffset(host_end), geometry_) - 1;
}

Result<ClusterMapping> Mapping::cluster(GuestCluster cluster)
{
    Locked lock(cache_.mutex);
    Window window;
    return load(cluster, window);
}

Result<MappedRun> Mapping::map(GuestOffset offset, std::uint64_t length_max)
{
    INVARIANT(length_max != 0);
    const bool one_cluster = geometry_.in_cluster(offset) + length_max <= geometry_.cluster_size();
    const GuestCluster cluster = geometry_.cluster_of(offset);
    if (one_cluster)
        if (const auto found = lookaside_.find(cluster))
            return MappedRun{*found, length_max};
    Locked lock(cache_.mutex);
    Result<MappedRun> run = map_locked(offset, length_max);
    if (one_cluster && run && !geometry_.extended_l2)
        if (const auto *data = std::get_if<Data>(&run->mapping))
            lookaside_.put(cluster, *data);
    return run;
}

Result<MappedRun> Mapping::map_locked(GuestOffset offset, std::uint64_t length_max)
{
    // Part by part; a part is a cluster, or a subcluster.
    const std::uint64_t part_size = geometry_.part_size();
    const std::uint64_t per_cluster = geometry_.parts_per_cluster();
    const std::uint64_t first = offset.value / part_size;
    const std::uint64_t in_part = offset.value % part_size;
    const std::uint64_t end = first + div_ceil(in_part + length_max, part_size);
    const GuestCluster first_cluster = geometry_.cluster_of(offset);

    Window window;
    ClusterMapping run;
    std::uint64_t at = first;
    bool same = true;
    while (same && at < end) {
        const GuestCluster cluster(at / per_cluster);
        if (!l1_.of(cluster).present()) {
            same = at == first || std::holds_alternative<Unallocated>(run);
            if (!same)
                break;
            run = Unallocated();
            at = (cluster.value +
                  l1_.absent_length(cluster, div_ceil(end, per_cluster) - cluster.value)) *
                 per_cluster;
            continue;
        }
        const Result<ClusterMapping> mapping = load(cluster, window);
        if (!mapping && at == first)
            return mapping.error();
        same = mapping.has_value();  // else told when somebody asks for that place
        const std::uint64_t bytes = (cluster - first_cluster) * geometry_.cluster_size();
        for (; same && at < std::min((cluster.value + 1) * per_cluster, end); at += same) {
            const ClusterMapping part = part_of(*mapping, at % per_cluster);
            if (at == first)
                run = part;
            else
                same = continues(run, bytes, part);
        }
        if (same && at < end)
            at += alike_behind(cluster, end - at, window);
    }
    return MappedRun{std::move(run), std::min((at - first) * part_size - in_part, length_max)};
}

Result<void> Mapping::check_own(const ClusterMapping &mapping, std::uint64_t count,
                                GuestOffset guest)
{
    HostRun names = named_clusters(mapping, geometry_);
    if (names.count == 0)
        return {};
    if (!std::holds_alternative<Compressed>(mapping))
        names.count = count;
    if (!metadata_.overlaps(names))
        return {};
    met_metadata_ = true;
    return finding(Finding::data_cluster_is_metadata, "guest offset {:#x}, host offset {:#x}",
                   guest.value, geometry_.offset_of(names.first).value);
}

bool Mapping::has_table(GuestCluster cluster) const
{
    Locked lock(cache_.mutex);
    return l1_.of(cluster).present();
}

bool Mapping::has_tables() const
{
    Locked lock(cache_.mutex);
    return l1_.has_tables();
}

std::uint64_t Mapping::l1_entries() const
{
    Locked lock(cache_.mutex);
    return l1_.size();
}

}  // namespace qcow2
