// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/mapping.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t l1_entries_per_sector = limits::sector / 8;

// The host cluster of a mapping that may be written in place; 0 if none.
HostOffset host_of(const ClusterMapping &mapping)
{
    return std::visit(Overloaded{
                          [](const Unallocated &) { return HostOffset(); },
                          [](const Zero &zero) { return zero.host; },
                          [](const Data &data) { return data.host; },
                          [](const Compressed &) { return HostOffset(); },
                      },
                      mapping);
}

void clear_copied(ClusterMapping &mapping)
{
    if (auto *data = std::get_if<Data>(&mapping))
        data->copied = false;
    else if (auto *zero = std::get_if<Zero>(&mapping))
        zero->copied = false;
}

// Whether `next` goes on where `run`, of so many clusters, ends.
bool continues(const ClusterMapping &run, std::uint64_t clusters, const ClusterMapping &next,
               std::uint64_t cluster_size)
{
    const std::uint64_t bytes = clusters * cluster_size;
    if (const auto *data = std::get_if<Data>(&run))
        return next == ClusterMapping(Data{data->host + bytes, data->copied});
    if (const auto *zero = std::get_if<Zero>(&run))
        return zero->has_cluster() ? next == ClusterMapping(Zero{zero->host + bytes, zero->copied})
                                   : next == run;
    return std::holds_alternative<Unallocated>(run) && next == run;
}

}  // namespace

Mapping::Mapping(ByteStore &store, ImageHeader &header, MetadataMap &metadata,
                 Allocator &allocator, std::uint64_t cache_bytes)
    : store_(store),
      header_(header),
      metadata_(metadata),
      allocator_(allocator),
      geometry_(header.header().geometry()),
      dirty_bytes_max_(std::max<std::uint64_t>(cache_bytes / 2, 64 << 10)),
      cache_(store, Rank::mapping, std::min<std::uint64_t>(geometry_.cluster_size(), 4096),
             cache_bytes)
{
}

Result<void> Mapping::open()
{
    const Header header = header_.header();
    const HostOffset offset = header.l1_table_offset;
    const std::uint64_t bytes = std::uint64_t(header.l1_size) * 8;
    const std::string where = "L1 table at " + hex(offset.value);
    if (bytes != 0 && offset.value < geometry_.cluster_size())
        return finding(Finding::l1_table_missing, where);
    if (bytes != 0 && !fits(offset.value, bytes, store_.size()))
        return finding(Finding::l1_table_past_end, where);

    Buffer raw(bytes);
    TRY(store_.read(offset.value, raw).in(where));
    Locked lock(cache_.mutex);
    l1_offset_ = offset;
    l1_.resize(header.l1_size);
    for (std::size_t i = 0; i < l1_.size(); ++i) {
        l1_[i] = L1Entry(load_be64(&raw[i * 8]));
        const Result<void> entry = check_l1_entry(l1_[i]);
        if (!entry && !why_read_only_)
            why_read_only_ = Error(entry.error()).in(where + ", entry " + std::to_string(i));
        if (entry && l1_[i].present())
            metadata_.add({geometry_.cluster_of(l1_[i].l2_table()), 1});
    }
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

Result<ClusterMapping> Mapping::decode(std::uint64_t raw, GuestCluster cluster) const
{
    const auto where = [&] { return "guest offset " + hex(geometry_.offset_of(cluster).value); };
    Result<ClusterMapping> mapping = decode_l2_entry(raw, geometry_);
    if (!mapping)
        return std::move(mapping).in(where());
    const auto *compressed = std::get_if<Compressed>(&*mapping);
    const HostOffset host = compressed ? compressed->host : host_of(*mapping);
    if (host.value >= store_.size())
        return finding(Finding::data_cluster_past_end,
                       where() + ", host offset " + hex(host.value));
    return mapping;
}

// Clusters from this one on that have no L2 table.
std::uint64_t Mapping::absent_length(GuestCluster cluster, std::uint64_t clusters_max) const
{
    const GuestCluster first = cluster;
    while (cluster - first < clusters_max && !l1_entry(cluster).present())
        cluster += geometry_.l2_entries() - geometry_.l2_index(cluster);
    return std::min(cluster - first, clusters_max);
}

Result<MappedRun> Mapping::map(GuestOffset offset, std::uint64_t length_max)
{
    INVARIANT(length_max != 0);
    const GuestCluster first = geometry_.cluster_of(offset);
    const std::uint64_t in_cluster = geometry_.in_cluster(offset);
    const std::uint64_t clusters_max = geometry_.clusters_for(in_cluster + length_max);
    const auto run_of = [&](ClusterMapping mapping, std::uint64_t clusters) {
        const std::uint64_t bytes = clusters * geometry_.cluster_size() - in_cluster;
        return MappedRun{std::move(mapping), std::min(bytes, length_max)};
    };

    Locked lock(cache_.mutex);
    ClusterMapping run;
    std::uint64_t clusters = 0;
    while (clusters < clusters_max) {
        const GuestCluster cluster = first + clusters;
        const L1Entry l1 = l1_entry(cluster);
        if (!l1.present()) {
            if (clusters != 0 && !std::holds_alternative<Unallocated>(run))
                break;
            run = Unallocated();
            clusters += absent_length(cluster, clusters_max - clusters);
            continue;
        }
        const Result<void> checked = check_l1_entry(l1);
        if (!checked) {
            if (clusters != 0)
                break;
            return Error(checked.error()).in("guest offset " + hex(offset.value));
        }
        const HostOffset place = entry_place(l1, cluster);
        const MutableBytes piece = TRY(cache_.get(place));
        if (l1_entry(cluster) != l1) {  // the lock was let go of: all anew
            clusters = 0;
            continue;
        }
        // Entry by entry to the end of the piece.
        std::uint64_t at = place.value % cache_.piece_bytes();
        bool same = true;
        for (; same && at < piece.size() && clusters < clusters_max; at += geometry_.l2_entry_bytes()) {
            Result<ClusterMapping> decoded = decode(load_be64(&piece[at]), first + clusters);
            if (!decoded) {
                if (clusters == 0)
                    return std::move(decoded).error();
                same = false;  // told when somebody asks for that place
                break;
            }
            if (!l1.copied())
                clear_copied(*decoded);
            if (clusters == 0)
                run = *decoded;
            else
                same = continues(run, clusters, *decoded, geometry_.cluster_size());
            clusters += same;
        }
        if (!same)
            break;
    }
    return run_of(std::move(run), clusters);
}

bool Mapping::has_table(GuestCluster cluster) const
{
    Locked lock(cache_.mutex);
    return l1_entry(cluster).present();
}

Result<void> Mapping::make_table(GuestCluster cluster)
{
    const std::uint64_t index = geometry_.l1_index(cluster);
    {
        Locked lock(cache_.mutex);
        INVARIANT(index < l1_.size());
        if (l1_[index].copied())
            return {};
    }
    RangeLock::Guard guard(tables_, Range::of(index, 1));
    L1Entry old;
    {
        Locked lock(cache_.mutex);
        old = l1_[index];
    }
    if (old.copied())
        return {};

    // W1: take() has made the refcount durable. W2: the new table is written
    // now, and the L1 entry not before the next flush.
    const Allocator::Taken taken = TRY(allocator_.take(1));
    const HostOffset table = geometry_.offset_of(taken.run.first);
    Result<void> result = fill_table(taken, old);
    if (result && !metadata_.add(taken.run))
        result = finding(Finding::tables_overlap, "new L2 table at " + hex(table.value));
    if (!result) {
        allocator_.give_back(taken.run);
        return std::move(result).in("new L2 table at " + hex(table.value));
    }

    Locked lock(cache_.mutex);
    cache_.forget(table, geometry_.cluster_size());
    l1_[index] = L1Entry::of(table, true);
    l1_dirty_.insert(index / l1_entries_per_sector);
    if (old.present())
        released_.push_back({geometry_.cluster_of(old.l2_table()), 1});
    return {};
}

// The new table says what the old one says. Bit 63 stays only where it is
// true: under a shared table nobody has kept it so (W6).
Result<void> Mapping::fill_table(const Allocator::Taken &taken, L1Entry old)
{
    if (!old.present() && taken.fresh)
        return {};
    Buffer bytes(geometry_.cluster_size());
    if (old.present()) {
        TRY(store_.read(old.l2_table().value, bytes));
        for (std::size_t at = 0; at < bytes.size(); at += geometry_.l2_entry_bytes()) {
            const std::uint64_t raw = load_be64(&bytes[at]);
            if (!(raw & entry_copied))
                continue;
            const HostCluster host = geometry_.cluster_of(HostOffset(raw & entry_offset_mask));
            if (TRY(allocator_.refcount(host)) != 1)
                store_be64(&bytes[at], raw & ~entry_copied);
        }
    }
    return store_.write(geometry_.offset_of(taken.run.first).value, bytes);
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
        HeaderArea area = header_.area();
        area.header.l1_table_offset = offset;
        area.header.l1_size = static_cast<std::uint32_t>(entries);
        return header_.commit(area);  // H1
    };
    Result<void> result = publish();
    if (!result) {
        allocator_.give_back(run);
        return std::move(result).in("new L1 table at " + hex(offset.value));
    }
    metadata_.add(run);
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
    INVARIANT(l1.copied());  // and stays so while the caller holds the range
    const HostOffset place = entry_place(l1, first);
    const MutableBytes piece = TRY(cache_.get(place));
    const std::uint64_t begin = place.value % cache_.piece_bytes();
    count = std::min(count, (piece.size() - begin) / geometry_.l2_entry_bytes());
    const auto word = [&](std::uint64_t i) { return &piece[begin + i * geometry_.l2_entry_bytes()]; };

    std::vector<ClusterMapping> was;
    for (std::uint64_t i = 0; i < count; ++i)
        was.push_back(TRY(decode(load_be64(word(i)), first + i)));
    // From here on nothing fails.
    for (std::uint64_t i = 0; i < count; ++i) {
        const ClusterMapping is = change(first + i, was[i]);
        if (is == was[i])
            continue;
        store_be64(word(i), encode_l2_entry(is, geometry_));
        cache_.mark_dirty(place);
        release(was[i], is);
    }
    return count;
}

// The clusters whose name is gone. Compressed data name every cluster that
// their sectors touch.
void Mapping::release(const ClusterMapping &was, const ClusterMapping &is)
{
    HostOffset host = host_of(was);
    std::uint64_t length = geometry_.cluster_size();
    if (const auto *compressed = std::get_if<Compressed>(&was)) {
        host = compressed->host;
        length = compressed->bytes_max;
    } else if (host.value == 0 || host == host_of(is)) {
        return;
    }
    const Range clusters = Range::of(host.value, length).touched(geometry_.cluster_size());
    if (!released_.empty() && released_.back().end() == HostCluster(clusters.begin))
        released_.back().count += clusters.length();
    else
        released_.push_back({HostCluster(clusters.begin), clusters.length()});
}

bool Mapping::wants_write_back() const
{
    Locked lock(cache_.mutex);
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
    sealed.l2 = cache_.seal();
    for (const std::uint64_t sector : l1_dirty_) {
        const std::uint64_t first = sector * l1_entries_per_sector;
        const std::uint64_t end = std::min<std::uint64_t>(first + l1_entries_per_sector, l1_.size());
        Buffer bytes((end - first) * 8);
        for (std::uint64_t i = first; i < end; ++i)
            store_be64(&bytes[(i - first) * 8], l1_[i].raw());
        sealed.l1.push_back({l1_offset_.value + first * 8, std::move(bytes)});
    }
    l1_dirty_.clear();
    sealed.released = std::move(released_);
    released_.clear();
    return sealed;
}

Result<void> Mapping::write(const Sealed &sealed)
{
    TRY(TableCache::write(store_, sealed.l2).in("L2"));
    return TableCache::write(store_, sealed.l1).in("L1");
}

void Mapping::unseal(Sealed &&sealed, bool written)
{
    Locked lock(cache_.mutex);
    cache_.unseal(sealed.l2, written);
    if (written)
        return;
    for (const TableCache::Sealed &sector : sealed.l1)
        l1_dirty_.insert((sector.offset - l1_offset_.value) / limits::sector);
    released_.insert(released_.end(), sealed.released.begin(), sealed.released.end());
}

}  // namespace qcow2
