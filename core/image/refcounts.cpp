// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/refcounts.h"

#include <algorithm>

#include "core/base/table_reader.h"
#include "core/format/findings.h"
#include "core/format/limits.h"
#include "core/format/refcount_block.h"
#include "core/format/table_entry.h"

namespace qcow2 {

Refcounts::Refcounts(ByteStore &store, ImageHeader &header, MetadataMap &metadata,
                     std::uint64_t cache_bytes)
    : store_(store),
      header_(header),
      metadata_(metadata),
      geometry_(header.header().geometry()),
      cache_(store, Rank::refcounts, std::min<std::uint64_t>(geometry_.cluster_size(), 4096),
             cache_bytes)
{
}

Result<void> Refcounts::open()
{
    const Header header = header_.header();
    table_offset_ = header.refcount_table_offset;
    const std::uint64_t bytes = header.refcount_table_clusters * geometry_.cluster_size();
    const std::string where = formatted("refcount table at {:#x}", table_offset_.value);
    if (bytes == 0)
        return finding(Finding::refcount_table_empty);
    if (table_offset_.value < geometry_.cluster_size())
        return finding(Finding::refcount_table_missing, where);
    if (!fits(table_offset_.value, bytes, store_.size()))
        return finding(Finding::refcount_table_past_end, where);

    table_entries_ = bytes / 8;
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto entry = [&] { return formatted("{}, entry {}: {:#x}", where, i, raw); };
        const HostOffset block = TRY(decode_refcount_table_entry(raw, geometry_).in(where));
        if (block.value >= store_.size())
            return finding(Finding::refcount_block_past_end, entry());
        if (!metadata_.add({geometry_.cluster_of(block), 1}))
            return finding(Finding::tables_overlap, entry());
        table_.resize(i + 1);
        table_[i] = block;
        return {};
    };
    TableBuffer buffer{.where = where};
    return for_each_entry(store_, buffer, table_offset_.value, table_entries_, 8, visit);
}

bool Refcounts::covered(HostCluster cluster) const
{
    return cluster < blocks_end() && table_[block_index(cluster)].value != 0;
}

HostCluster Refcounts::blocks_end() const
{
    return HostCluster(table_.size() << geometry_.refcount_block_bits());
}

HostCluster Refcounts::block_end(HostCluster cluster) const
{
    return HostCluster((block_index(cluster) + 1) << geometry_.refcount_block_bits());
}

HostCluster Refcounts::reach_end() const
{
    return HostCluster(table_entries_ << geometry_.refcount_block_bits());
}

Refcounts::Place Refcounts::place(HostCluster cluster) const
{
    const std::uint64_t per_piece = cache_.piece_bytes() * 8 / geometry_.refcount_bits();
    const std::uint64_t entry = cluster.value & (geometry_.refcount_block_entries() - 1);
    const HostOffset block = table_[block_index(cluster)];
    return {block + entry / per_piece * cache_.piece_bytes(), entry, entry % per_piece,
            align_down(entry, per_piece) + per_piece};
}

Result<std::uint64_t> Refcounts::get(HostCluster cluster)
{
    std::uint64_t count = 0;
    TRY(get(cluster, {&count, 1}));
    return count;
}

Result<void> Refcounts::get(HostCluster first, std::span<std::uint64_t> counts)
{
    Locked lock(cache_.mutex);
    for (std::uint64_t i = 0; i < counts.size();) {
        if (!covered(first + i)) {
            counts[i++] = 0;
            continue;
        }
        const Place at = place(first + i);
        const MutableBytes piece = TRY(cache_.get(at.offset));
        const std::uint64_t length = std::min(at.piece_end - at.entry, counts.size() - i);
        for (std::uint64_t n = 0; n < length; ++n)
            counts[i + n] = load_refcount(piece, geometry_.refcount_order, at.piece_entry + n);
        i += length;
    }
    return {};
}

Result<void> Refcounts::add_one(HostCluster cluster, bool up)
{
    const Place at = place(cluster);
    const MutableBytes piece = TRY(cache_.get(at.offset));
    const std::uint64_t count = load_refcount(piece, geometry_.refcount_order, at.piece_entry);
    if (up && count == geometry_.refcount_max())
        return Error(Errc::unsupported,
                     "refcounts of {} bits are too narrow: cluster at {:#x} is used once more",
                     geometry_.refcount_bits(), geometry_.offset_of(cluster).value);
    if (!up && count == 0)
        return finding(Finding::refcount_too_low, "cluster at {:#x}",
                       geometry_.offset_of(cluster).value);
    cache_.before_change(at.offset);
    store_refcount(piece, geometry_.refcount_order, at.piece_entry, up ? count + 1 : count - 1);
    return {};
}

Result<void> Refcounts::add(HostRun run, bool up)
{
    Locked lock(cache_.mutex);
    for (std::uint64_t i = 0; i < run.count; ++i) {
        if (!covered(run.first + i))
            return finding(Finding::refcount_too_low, "cluster at {:#x}",
                           geometry_.offset_of(run.first + i).value);
        Result<void> result = add_one(run.first + i, up);
        if (!result) {
            while (i-- > 0)
                // Its piece is dirty, so it is there: this cannot fail.
                INVARIANT(add_one(run.first + i, !up));
            return result;
        }
    }
    return {};
}

Result<void> Refcounts::raise(HostRun run) { return add(run, true); }

Result<void> Refcounts::lower(HostRun run) { return add(run, false); }

Result<HostCluster> Refcounts::find(HostCluster from, HostCluster end, bool zero)
{
    Locked lock(cache_.mutex);
    while (from < end) {
        const Place at = place(from);
        const MutableBytes piece = TRY(cache_.get(at.offset));
        const std::uint64_t length = std::min(at.piece_end - at.entry, end - from);
        const std::uint64_t found = find_refcount(piece, geometry_.refcount_order, at.piece_entry,
                                                  at.piece_entry + length, zero);
        if (found != at.piece_entry + length)
            return from + (found - at.piece_entry);
        from += length;
    }
    return end;
}

Result<HostRun> Refcounts::find_free(HostCluster from, HostCluster end, std::uint64_t count_max)
{
    while (from < end && covered(from)) {
        const HostCluster block = std::min(block_end(from), end);
        const HostCluster first = TRY(find(from, block, true));
        if (first != block) {
            const HostCluster last = first + std::min(block - first, count_max);
            const HostCluster run_end = TRY(find(first, last, false));
            return HostRun{first, run_end - first};
        }
        from = block;
    }
    return HostRun{from, 0};
}

Result<HostCluster> Refcounts::used_end(HostCluster end)
{
    return std::max(TRY(counted_end(end)), std::min(made_end_, end));
}

Result<HostCluster> Refcounts::counted_end(HostCluster end)
{
    // (A file of holes may be far longer.)
    end = std::min(end, blocks_end());
    while (end > HostCluster(0)) {
        const HostCluster begin(align_down(end.value - 1, geometry_.refcount_block_entries()));
        if (covered(begin)) {
            HostCluster used = begin, at = begin;
            while (at < end) {
                at = TRY(find(at, end, false));
                if (at < end)
                    used = at = TRY(find(at, end, true));
            }
            if (used != begin)
                return used;
        }
        end = begin;
    }
    return end;
}

Result<bool> Refcounts::counts_from(HostCluster first)
{
    TableBuffer buffer;
    for (HostCluster at = first; at < blocks_end(); at = block_end(at)) {
        if (!covered(at))
            continue;
        // Not through the cache, of which it would need a large part.
        const Place from = place(at);
        const HostOffset block = table_[block_index(at)];
        const std::uint64_t begin =
            align_down(from.entry * geometry_.refcount_bits() / 8, limits::sector);
        bool found = false;
        const auto visit = [&](std::uint64_t piece_begin, Bytes piece) -> Result<void> {
            const std::uint64_t skipped = (begin + piece_begin) * 8 / geometry_.refcount_bits();
            const std::uint64_t entries = piece.size() * 8 / geometry_.refcount_bits();
            found |=
                find_refcount(piece, geometry_.refcount_order,
                              std::max(from.entry, skipped) - skipped, entries, false) != entries;
            return {};
        };
        TRY(for_each_table_piece(store_, buffer, block.value + begin,
                                 geometry_.cluster_size() - begin, limits::sector, visit)
                .in("refcount block at {:#x}", block.value));
        if (found)
            return true;
    }
    return false;
}

Result<void> Refcounts::make_block(HostCluster covers, HostCluster at)
{
    INVARIANT(covers < reach_end() && !covered(covers));
    const std::uint64_t index = block_index(covers);
    const HostOffset offset = geometry_.offset_of(at);
    const std::string where = formatted("new refcount block at {:#x}", offset.value);
    Buffer block(geometry_.cluster_size());
    if (block_index(at) == index) {
        store_refcount(block, geometry_.refcount_order,
                       at.value & (geometry_.refcount_block_entries() - 1), 1);
    } else {
        TRY(raise({at, 1}));
        TRY(write_back());
    }
    if (!metadata_.add({at, 1}))
        return finding(Finding::tables_overlap, where);
    {
        Locked lock(cache_.mutex);
        cache_.forget(offset, geometry_.cluster_size());
    }
    const Result<void> result = publish_block(index, offset, block).in(where);
    if (!result)
        metadata_.remove({at, 1});  // at worst the cluster leaks
    return result;
}

// W1, and H1 with the sector of the table entry as the commit.
Result<void> Refcounts::publish_block(std::uint64_t index, HostOffset offset, Bytes block)
{
    TRY(store_.write(offset.value, block));
    TRY(store_.flush());
    std::uint8_t entry[8];
    store_be64(entry, offset.value);
    table_.resize(std::max<std::size_t>(table_.size(), index + 1));
    made_end_ = std::max(made_end_, geometry_.cluster_of(offset) + 1);
    TRY(store_.write_durable(table_offset_.value + index * 8, entry));
    table_[index] = offset;
    return {};
}

Refcounts::Growth Refcounts::growth() const
{
    const std::uint64_t cluster_entries = geometry_.cluster_size() / 8;
    const std::uint64_t entries_max = limits::refcount_table_bytes_max / 8;
    const std::uint64_t block_entries = geometry_.refcount_block_entries();
    Growth g;
    g.table_entries =
        std::min(align_up(table_entries_ + table_entries_ / 2 + 1, cluster_entries), entries_max);
    g.table_clusters = div_ceil(g.table_entries, cluster_entries);
    // The blocks count themselves too.
    while (g.blocks * block_entries < g.clusters())
        ++g.blocks;
    if (table_entries_ + g.blocks > g.table_entries)
        return {};
    return g;
}

Result<HostRun> Refcounts::grow_table()
{
    const Growth g = growth();
    const HostCluster first = reach_end();
    INVARIANT(g.clusters() != 0);
    const HostRun run{first, g.clusters()};
    const std::uint64_t cluster_size = geometry_.cluster_size();
    const std::string where =
        formatted("new refcount table at {:#x}", geometry_.offset_of(first + g.blocks).value);
    if (!metadata_.add(run))
        return finding(Finding::tables_overlap, where);

    // Aside: the old table counts none of the new clusters, the new one does.
    Buffer aside(g.clusters() * cluster_size);
    for (std::uint64_t i = 0; i < g.clusters(); ++i) {
        const std::uint64_t block = i / geometry_.refcount_block_entries();
        store_refcount(sub(MutableBytes(aside), block * cluster_size, cluster_size),
                       geometry_.refcount_order, i % geometry_.refcount_block_entries(), 1);
    }
    std::vector<HostOffset> table = table_;
    table.resize(table_entries_);
    for (std::uint64_t i = 0; i < g.blocks; ++i)
        table.push_back(geometry_.offset_of(first + i));
    for (std::size_t i = 0; i < table.size(); ++i)
        store_be64(&aside[g.blocks * cluster_size + i * 8], table[i].value);

    {
        Locked lock(cache_.mutex);
        cache_.forget(geometry_.offset_of(first), aside.size());
    }
    const HostOffset offset = geometry_.offset_of(first + g.blocks);
    const HostRun old{geometry_.cluster_of(table_offset_), table_entries_ * 8 / cluster_size};
    const Result<void> result =
        publish_table(geometry_.offset_of(first), aside, offset, g.table_clusters).in(where);
    if (!result) {
        metadata_.remove(run);
        return result.error();
    }
    table_ = std::move(table);
    table_entries_ = g.table_entries;
    table_offset_ = offset;
    metadata_.remove(old);
    return old;
}

// H1: aside, durable, then the header.
Result<void> Refcounts::publish_table(HostOffset where, Bytes aside, HostOffset table,
                                      std::uint64_t table_clusters)
{
    TRY(write_back());
    TRY(store_.write(where.value, aside));
    TRY(store_.flush());
    return header_.commit([&](HeaderArea &area) {
        area.header.refcount_table_offset = table;
        area.header.refcount_table_clusters = static_cast<std::uint32_t>(table_clusters);
    });
}

Result<void> Refcounts::write_back()
{
    TableCache::Sealed sealed;
    {
        Locked lock(cache_.mutex);
        sealed = cache_.seal();
    }
    const auto unseal = [&](bool written) {
        Locked lock(cache_.mutex);
        cache_.unseal(sealed, written);
    };
    Result<void> result;
    try {
        result = cache_.write(sealed).in("refcounts");
    } catch (...) {
        unseal(false);
        throw;
    }
    unseal(result.has_value());
    return result;
}

}  // namespace qcow2
