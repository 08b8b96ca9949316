// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/l1_table.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t l1_entries_per_sector = limits::sector / 8;

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

Result<void> check_l1_entry(L1Entry l1, const Geometry &geometry, const ByteStore &store)
{
    const L1Entry entry = TRY(decode_l1_entry(l1.raw(), geometry));
    if (entry.present() && !fits(entry.l2_table().value, geometry.cluster_size(), store.size()))
        return finding(Finding::l2_table_past_end, hex(entry.l2_table().value));
    return {};
}

Result<L1Table> L1Table::load(ByteStore &store, const Geometry &geometry, HostOffset offset,
                              std::uint32_t l1_size)
{
    const std::uint64_t bytes = std::uint64_t(l1_size) * 8;
    const std::string where = "L1 table at " + hex(offset.value);
    if (bytes != 0 && offset.value < geometry.cluster_size())
        return finding(Finding::l1_table_missing, where);
    if (bytes != 0 && !fits(offset.value, bytes, store.size()))
        return finding(Finding::l1_table_past_end, where);

    L1Table table(geometry);
    table.offset_ = offset;
    table.entries_.resize(l1_size);
    const auto visit = [&](std::uint32_t i, L1Entry entry) {
        table.entries_[i] = entry;
        return Result<void>();
    };
    TRY(for_each_l1_entry(store, offset, l1_size, visit).in(where));
    return table;
}

HostRun L1Table::clusters() const
{
    return entries_.empty() ? HostRun()
                            : HostRun{geometry_.cluster_of(offset_),
                                      geometry_.clusters_for(entries_.size() * 8)};
}

bool L1Table::has_tables() const { return std::ranges::any_of(entries_, &L1Entry::present); }

std::uint64_t L1Table::absent_length(GuestCluster cluster, std::uint64_t clusters_max) const
{
    const GuestCluster first = cluster;
    while (cluster - first < clusters_max && !of(cluster).present())
        cluster += geometry_.l2_entries() - geometry_.l2_index(cluster);
    return std::min(cluster - first, clusters_max);
}

void L1Table::before_change(std::uint64_t index) { dirty_.insert(index / l1_entries_per_sector); }

void L1Table::move_to(HostOffset offset, std::uint64_t entries)
{
    entries_.resize(entries);
    offset_ = offset;
}

Buffer L1Table::encode(std::uint64_t first, std::uint64_t end) const
{
    return encode_entries(std::span(entries_).subspan(first, end - first));
}

std::vector<L1Table::Sector> L1Table::dirty_sectors() const
{
    std::vector<Sector> sectors;
    for (const std::uint64_t sector : dirty_) {
        const std::uint64_t first = sector * l1_entries_per_sector;
        const std::uint64_t end =
            std::min<std::uint64_t>(first + l1_entries_per_sector, entries_.size());
        sectors.push_back({offset_.value + first * 8, encode(first, end)});
    }
    return sectors;
}

}  // namespace qcow2
