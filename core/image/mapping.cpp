// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/mapping.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/l2_table.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t l1_entries_per_sector = limits::sector / 8;

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

Result<void> for_each_l1_entry(ByteStore &store, HostOffset l1_table_offset, std::uint32_t l1_size,
                               const std::function<Result<void>(std::uint32_t, L1Entry)> &visit)
{
    // An L1 table may have 32 MiB: piece by piece.
    constexpr std::uint32_t piece_entries = 32 << 10;
    Buffer raw;
    for (std::uint32_t first = 0; first < l1_size; first += piece_entries) {
        const std::uint32_t entries = std::min(piece_entries, l1_size - first);
        raw.resize(entries * 8);
        TRY(store.read(l1_table_offset.value + std::uint64_t(first) * 8, raw));
        for (std::uint32_t i = 0; i < entries; ++i)
            TRY(visit(first + i, L1Entry(load_be64(&raw[i * 8]))));
    }
    return {};
}

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
      lookaside_(geometry_, geometry_.clusters_for(header.header().size), cache_bytes / lookaside_share)
{
}

Result<void> Mapping::open(HostOffset offset, std::uint32_t l1_size)
{
    const std::uint64_t bytes = std::uint64_t(l1_size) * 8;
    const std::string where = "L1 table at " + hex(offset.value);
    if (bytes != 0 && offset.value < geometry_.cluster_size())
        return finding(Finding::l1_table_missing, where);
    if (bytes != 0 && !fits(offset.value, bytes, store_.size()))
        return finding(Finding::l1_table_past_end, where);

    std::vector<L1Entry> l1(l1_size);
    const auto visit = [&](std::uint32_t i, L1Entry read) -> Result<void> {
        l1[i] = read;
        if (read.raw() == 0)
            return {};  // as most are of a large disk
        Result<void> entry = check_l1_entry(read);
        if (entry && read.present() && !metadata_.add_l2_table(geometry_.cluster_of(read.l2_table())))
            entry = finding(Finding::tables_overlap, "L2 table at " + hex(read.l2_table().value));
        if (!entry && !why_read_only_)
            why_read_only_ = std::move(entry).in(where + ", entry " + std::to_string(i)).error();
        return {};
    };
    TRY(for_each_l1_entry(store_, offset, l1_size, visit).in(where));
    Locked lock(cache_.mutex);
    l1_offset_ = offset;
    l1_ = std::move(l1);
    return {};
}

Result<void> Mapping::reload()
{
    Locked lock(cache_.mutex);
    Buffer raw(l1_.size() * 8);
    TRY(store_.read(l1_offset_.value, raw).in("L1 table at " + hex(l1_offset_.value)));
    for (std::size_t i = 0; i < l1_.size(); ++i) {
        if (l1_[i].present())
            cache_.forget(l1_[i].l2_table(), geometry_.cluster_size());
        l1_[i] = L1Entry(load_be64(&raw[i * 8]));
    }
    lookaside_.forget_all();
    return {};
}

Result<void> Mapping::check_l1_entry(L1Entry l1) const
{
    const L1Entry entry = TRY(decode_l1_entry(l1.raw(), geometry_));
    if (entry.present() &&
        !fits(entry.l2_table().value, geometry_.cluster_size(), store_.size()))
        return finding(Finding::l2_table_past_end, hex(entry.l2_table().value));
    return {};
}

HostOffset Mapping::entry_place(L1Entry l1, GuestCluster cluster) const
{
    return l1.l2_table() + geometry_.l2_index(cluster) * geometry_.l2_entry_bytes();
}

L1Entry Mapping::l1_entry(GuestCluster cluster) const
{
    const std::uint64_t index = geometry_.l1_index(cluster);
    return index < l1_.size() ? l1_[index] : L1Entry();
}

Result<ClusterMapping> Mapping::decode(const std::uint8_t *entry, GuestCluster cluster) const
{
    const auto where = [&] { return "guest offset " + hex(geometry_.offset_of(cluster).value); };
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
        return finding(Finding::data_cluster_past_end,
                       where() + ", host offset " + hex(was_at(host, compressed, geometry_).value));
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

// Clusters from this one on that have no L2 table.
std::uint64_t Mapping::absent_length(GuestCluster cluster, std::uint64_t clusters_max) const
{
    const GuestCluster first = cluster;
    while (cluster - first < clusters_max && !l1_entry(cluster).present())
        cluster += geometry_.l2_entries() - geometry_.l2_index(cluster);
    return std::min(cluster - first, clusters_max);
}

// The cluster's entry, decoded, from the window if it is there. Else the lock
// is let go of while a table is read.
Result<ClusterMapping> Mapping::load(GuestCluster cluster, Window &window)
{
    for (;;) {
        const L1Entry l1 = l1_entry(cluster);
        if (!l1.present())
            return geometry_.extended_l2 ? ClusterMapping(Subclusters{}) : Unallocated{};
        const HostOffset place = entry_place(l1, cluster);
        if (place < window.begin || place - window.begin >= window.bytes.size()) {
            if (const auto checked = check_l1_entry(l1); !checked)
                return Error(checked.error())
                    .in("guest offset " + hex(geometry_.offset_of(cluster).value));
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
    cache_.before_change(place);
    store_be64(entry, put_l2_entry_out_of_reach(raw, geometry_));
    store_.hold_growth();
    log_debug("L2 entry at " + hex(place.value) + ": " + hex(raw) + " leads behind the end of the file; it is put "
              "out of reach");
}

// How many clusters behind this one, which was loaded, continue its run, as far
// as the window shows.
std::uint64_t Mapping::alike_behind(GuestCluster cluster, std::uint64_t clusters_max,
                                    const Window &window) const
{
    if (geometry_.extended_l2)
        return 0;
    const std::uint64_t at = entry_place(l1_entry(cluster), cluster) - window.begin;
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
        if (!l1_entry(cluster).present()) {
            same = at == first || std::holds_alternative<Unallocated>(run);
            if (!same)
                break;
            run = Unallocated();
            at = (cluster.value + absent_length(cluster, div_ceil(end, per_cluster) - cluster.value)) *
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
    return finding(Finding::data_cluster_is_metadata,
                   "guest offset " + hex(guest.value) + ", host offset " +
                       hex(geometry_.offset_of(names.first).value));
}

bool Mapping::has_table(GuestCluster cluster) const
{
    Locked lock(cache_.mutex);
    return l1_entry(cluster).present();
}

bool Mapping::has_tables() const
{
    Locked lock(cache_.mutex);
    return std::ranges::any_of(l1_, &L1Entry::present);
}

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
        result = finding(Finding::tables_overlap, "new L2 table at " + hex(table.value));
    if (!result) {
        allocator_.give_back(taken.run);
        return std::move(result).in("new L2 table at " + hex(table.value));
    }

    Locked lock(cache_.mutex);
    cache_.forget(table, geometry_.cluster_size());
    const HostRun released{geometry_.cluster_of(old.l2_table()), 1};
    l1_dirty_.insert(index / l1_entries_per_sector);
    if (old.present())
        released_.push_back(released);
    // From here on nothing fails: an entry that changed is in a dirty sector.
    l1_[index] = L1Entry::of(table, true);
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

std::uint64_t Mapping::l1_entries() const
{
    Locked lock(cache_.mutex);
    return l1_.size();
}

Result<void> Mapping::grow_l1(std::uint64_t entries)
{
    HostRun old;
    std::vector<L1Entry> l1;
    {
        Locked lock(cache_.mutex);
        INVARIANT(entries > l1_.size() && l1_dirty_.empty());
        l1 = l1_;
        if (!l1_.empty())
            old = {geometry_.cluster_of(l1_offset_), geometry_.clusters_for(l1_.size() * 8)};
    }
    if (entries > limits::l1_bytes_max / 8)
        return finding(Finding::l1_table_too_large);
    l1.resize(entries);

    const HostRun run = TRY(allocator_.take_contiguous(geometry_.clusters_for(entries * 8)));
    const HostOffset offset = geometry_.offset_of(run.first);
    Buffer bytes(run.count * geometry_.cluster_size());
    for (std::size_t i = 0; i < l1.size(); ++i)
        store_be64(&bytes[i * 8], l1[i].raw());
    const auto publish = [&]() -> Result<void> {
        TRY(store_.write(offset.value, bytes));
        TRY(store_.flush());
        return header_.commit([&](HeaderArea &area) {  // H1
            area.header.l1_table_offset = offset;
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
        return std::move(result).in("new L1 table at " + hex(offset.value));
    }
    {
        Locked lock(cache_.mutex);
        l1_ = std::move(l1);
        l1_offset_ = offset;
    }
    metadata_.remove(old);
    allocator_.lower(old);
    return {};
}

Result<std::uint64_t> Mapping::update(GuestCluster first, std::uint64_t count,
                                      const Change &change)
{
    Locked lock(cache_.mutex);
    const L1Entry l1 = l1_entry(first);
    INVARIANT(l1.own());  // and stays so while the caller holds the range
    const HostOffset place = entry_place(l1, first);
    const MutableBytes piece = TRY(cache_.get(place));
    const std::uint64_t begin = place.value % cache_.piece_bytes();
    count = std::min(count, (piece.size() - begin) / geometry_.l2_entry_bytes());
    const auto word = [&](std::uint64_t i) { return &piece[begin + i * geometry_.l2_entry_bytes()]; };

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
bool Mapping::wants_write_back() const
{
    return cache_.dirty_bytes() > dirty_bytes_max_;
}

bool Mapping::has_released() const
{
    Locked lock(cache_.mutex);
    return !released_.empty();
}

Mapping::Sealed Mapping::seal()
{
    Locked lock(cache_.mutex);
    Sealed sealed;
    for (const std::uint64_t sector : l1_dirty_) {
        const std::uint64_t first = sector * l1_entries_per_sector;
        const std::uint64_t end = std::min<std::uint64_t>(first + l1_entries_per_sector, l1_.size());
        Buffer bytes((end - first) * 8);
        for (std::uint64_t i = first; i < end; ++i)
            store_be64(&bytes[(i - first) * 8], l1_[i].raw());
        sealed.l1.push_back({l1_offset_.value + first * 8, std::move(bytes)});
    }
    sealed.lost_names = store_.holds();
    // From here on there is nothing that could fail.
    sealed.l2 = cache_.seal();
    sealed.l1_sectors.swap(l1_dirty_);
    sealed.released.swap(released_);
    return sealed;
}

Result<void> Mapping::write(const Sealed &sealed)
{
    TRY(cache_.write(sealed.l2).in("L2"));
    for (const Sealed::Sector &sector : sealed.l1)
        TRY(write_table(store_, sector.offset, sector.bytes).in("L1"));
    return {};
}

void Mapping::unseal(Sealed &&sealed, bool written)
{
    Locked lock(cache_.mutex);
    cache_.unseal(sealed.l2, written);
    if (written)
        return;
    l1_dirty_.merge(sealed.l1_sectors);
    // Without memory for it some clusters leak.
    released_.insert(released_.end(), sealed.released.begin(), sealed.released.end());
}

}  // namespace qcow2
