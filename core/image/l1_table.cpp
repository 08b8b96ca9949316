// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/l1_table.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/table_reader.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t l1_entries_per_sector = limits::sector / 8;

}  // namespace

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
    const std::string where = formatted("L1 table at {:#x}", offset.value);
    if (bytes != 0 && offset.value < geometry.cluster_size())
        return finding(Finding::l1_table_missing, where);
    if (bytes != 0 && !fits(offset.value, bytes, store.size()))
        return finding(Finding::l1_table_past_end, where);

    L1Table table(geometry);
    table.offset_ = offset;
    table.entries_ = SparseWords(l1_size);
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) {
        table.entries_.set(i, raw);
        return Result<void>();
    };
    TableBuffer buffer;
    TRY(for_each_entry(store, buffer, offset.value, l1_size, 8, visit).in(where));
    return table;
}

HostRun L1Table::clusters() const
{
    return size() == 0 ? HostRun()
                       : HostRun{geometry_.cluster_of(offset_), geometry_.clusters_for(size() * 8)};
}

bool L1Table::has_tables() const
{
    std::uint64_t i = entries_.next_set(0);
    while (i < size() && !(*this)[i].present())
        i = entries_.next_set(i + 1);
    return i < size();
}

std::uint64_t L1Table::absent_length(GuestCluster cluster, std::uint64_t clusters_max) const
{
    const std::uint64_t end = geometry_.l1_index(cluster + (clusters_max - 1)) + 1;
    const std::uint64_t first = geometry_.l1_index(cluster);
    std::uint64_t index = first;
    while (index < end && !(*this)[index].present()) {
        const std::uint64_t next = entries_.next_set(index + 1);
        index = next < size() ? std::min(end, next) : end;
    }
    if (index == first)
        return 0;
    return std::min((index - first) * geometry_.l2_entries() - geometry_.l2_index(cluster),
                    clusters_max);
}

void L1Table::before_change(std::uint64_t index)
{
    entries_.prepare(index);
    dirty_.insert(index / l1_entries_per_sector);
}

void L1Table::move_to(HostOffset offset, std::uint64_t entries)
{
    entries_.grow(entries);
    offset_ = offset;
}

Buffer L1Table::encode(std::uint64_t first, std::uint64_t end) const
{
    Buffer bytes((end - first) * 8);
    for (std::uint64_t i = entries_.next_set(first); i < end; i = entries_.next_set(i + 1))
        store_be64(&bytes[(i - first) * 8], entries_[i]);
    return bytes;
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
