// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/active_tree.h"

#include "core/base/log.h"
#include "core/check/sectors.h"
#include "core/base/table_reader.h"
#include "core/format/table_entry.h"

namespace qcow2 {

// What a leaks repair may do is to set the bit where one owner is left.
Result<std::uint64_t> ActiveTree::right_bit(std::uint64_t raw, HostOffset host)
{
    const std::uint64_t cluster = cluster_of(host);
    const bool sole = TRY(counts_.of(cluster)) == 1;
    if (kind_ == RepairKind::leaks)
        return sole && counts_.names(cluster) == 1 ? raw | entry_copied : raw;
    return sole ? raw | entry_copied : raw & ~entry_copied;
}

Result<std::uint64_t> ActiveTree::right_l1_entry(std::uint64_t raw)
{
    const L1Entry entry(raw);
    if (entry.present() && !walk_.is_there(entry.l2_table(), geometry().cluster_size()))
        return raw;  // lost: a finding by itself
    if (entry.present())
        return right_bit(raw, entry.l2_table());
    return kind_ == RepairKind::all ? raw & ~entry_copied : raw;
}

Result<std::uint64_t> ActiveTree::right_l2_entry(std::uint64_t raw)
{
    if (raw & l2_entry_compressed)
        return kind_ == RepairKind::all ? raw & ~entry_copied : raw;
    const HostOffset host(raw & entry_offset_mask);
    if (host.value == 0)
        return raw;
    // Clusters of a data file are counted by nobody and shared with nobody.
    if (geometry().data_file)
        return kind_ == RepairKind::all ? raw | entry_copied : raw;
    return walk_.is_inside(host, geometry().cluster_size()) ? right_bit(raw, host)
                                                            : Result<std::uint64_t>(raw);
}

bool ActiveTree::followed() const
{
    return fits(header().l1_table_offset.value, std::uint64_t(header().l1_size) * 8,
                walk_.file_clusters() << geometry().cluster_bits);
}

// Names of a refcount structure that goes do not count.
bool ActiveTree::is_apart(HostOffset table, std::uint64_t bytes, std::uint64_t times,
                          bool is_l2) const
{
    const Range clusters = Range::of(table.value, bytes).touched(geometry().cluster_size());
    for (std::uint64_t cluster = clusters.begin; cluster < clusters.end; ++cluster) {
        const ReferenceCounts::Word word = walk_.counts().of(cluster);
        if (word.is(Use::guest) || (word.is(Use::l2_table) && !is_l2) ||
            counts_.names(cluster) != times)
            return false;
    }
    return true;
}

Result<void> ActiveTree::keep_what_is_not_apart()
{
    if (!followed())
        return {};
    l1_stays_ = !is_apart(header().l1_table_offset, std::uint64_t(header().l1_size) * 8, 1, false);
    const auto keep_l2 = [&](std::uint64_t, std::uint64_t raw, std::uint64_t) -> Result<void> {
        if (L1Entry(raw).present())
            counts_.keep(cluster_of(L1Entry(raw).l2_table()));
        return {};
    };
    if (l1_stays_)
        TRY(for_each_entry(store_, table_buffer_, header().l1_table_offset.value, header().l1_size,
                           8, keep_l2));
    const auto keep_data = [&](std::uint64_t, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const HostOffset host(raw & entry_offset_mask);
        if (!(raw & l2_entry_compressed) && host.value != 0 &&
            walk_.is_inside(host, geometry().cluster_size()))
            counts_.keep(cluster_of(host));
        return {};
    };
    for (const auto &[table, named] : walk_.l2_tables()) {
        if (named.active == 0 || is_apart(table, geometry().cluster_size(), named.times, true))
            continue;
        l2_stay_.insert(table);
        if (!geometry().data_file)
            TRY(for_each_entry(store_, table_buffer_, table.value, geometry().l2_entries(),
                               geometry().l2_entry_bytes(), keep_data));
    }
    return {};
}

Result<void> ActiveTree::find_wrong()
{
    wrong_l1_ = false;
    wrong_l2_.clear();
    if (!followed())
        return {};
    if (!l1_stays_)
        TRY(for_each_entry(store_, table_buffer_, header().l1_table_offset.value, header().l1_size,
                           8, [&](std::uint64_t, std::uint64_t raw, std::uint64_t) -> Result<void> {
                               wrong_l1_ |= TRY(right_l1_entry(raw)) != raw;
                               return {};
                           }));
    for (const auto &named : walk_.l2_tables()) {
        const HostOffset table = named.first;
        if (named.second.active == 0 || l2_stay_.contains(table))
            continue;
        const auto visit = [&](std::uint64_t, std::uint64_t raw, std::uint64_t) -> Result<void> {
            if (TRY(right_l2_entry(raw)) != raw)
                wrong_l2_.insert(table);
            return {};
        };
        TRY(for_each_entry(store_, table_buffer_, table.value, geometry().l2_entries(),
                           geometry().l2_entry_bytes(), visit));
    }
    return {};
}

bool ActiveTree::movable() const
{
    return !l1_stays_ && std::ranges::all_of(wrong_l2_, [&](HostOffset table) {
        return geometry().is_aligned(table);
    });
}

std::uint64_t ActiveTree::l1_clusters() const
{
    return geometry().clusters_for(std::uint64_t(header().l1_size) * 8);
}

Result<Buffer> ActiveTree::right_l1(const std::map<HostOffset, HostOffset> &moved)
{
    Buffer table(l1_clusters() * geometry().cluster_size());
    TRY(store_.read(header().l1_table_offset.value,
                    sub(MutableBytes(table), 0, header().l1_size * 8)));
    for (std::uint64_t i = 0; i < header().l1_size; ++i) {
        std::uint64_t raw = load_be64(&table[i * 8]);
        const auto to = moved.find(L1Entry(raw).l2_table());
        if (L1Entry(raw).present() && to != moved.end())
            raw = (raw & ~entry_offset_mask) | to->second.value;
        store_be64(&table[i * 8], TRY(right_l1_entry(raw)));
    }
    return table;
}

Result<Buffer> ActiveTree::right_l2(HostOffset offset)
{
    Buffer table(geometry().cluster_size());
    TRY(store_.read(offset.value, table));
    for (std::size_t at = 0; at < table.size(); at += geometry().l2_entry_bytes())
        store_be64(&table[at], TRY(right_l2_entry(load_be64(&table[at]))));
    return table;
}

Result<bool> ActiveTree::write_table(HostOffset table, Bytes right, std::uint64_t entry_bytes,
                                     Which which)
{
    Buffer now(right.size());
    TRY(store_.read(table.value, now));
    Buffer then(right.begin(), right.end());
    if (which == Which::cleared)
        for (std::size_t at = 0; at < then.size(); at += entry_bytes)
            store_be64(&then[at], load_be64(&then[at]) & load_be64(&now[at]));
    return write_differing_sectors(store_, table.value, now, then);
}

Result<bool> ActiveTree::write_l2(HostOffset table, Which which)
{
    return write_table(table, TRY(right_l2(table)), geometry().l2_entry_bytes(), which);
}

std::vector<HostOffset> ActiveTree::wrong_and_shared() const
{
    std::vector<HostOffset> tables;
    for (const HostOffset &table : wrong_l2_) {
        const ImageWalk::Named &named = walk_.l2_tables().at(table);
        if (named.active != named.times && named.bad_entries &&
            walk_.is_apart(table, geometry().cluster_size()))
            tables.push_back(table);
    }
    return tables;
}

Result<void> ActiveTree::clear_in_place(const std::vector<HostOffset> &tables)
{
    for (const HostOffset &table : tables)
        TRY(write_l2(table, Which::cleared));
    return {};
}

Result<bool> ActiveTree::write_in_place(Which which)
{
    bool written = false;
    for (const HostOffset &table : wrong_l2_)
        written |= TRY(write_l2(table, which));
    if (wrong_l1_) {
        const Buffer table = TRY(right_l1({}));
        written |=
            TRY(write_table(header().l1_table_offset,
                            sub(Bytes(table), 0, std::size_t(header().l1_size) * 8), 8, which));
    }
    return written;
}

}  // namespace qcow2
