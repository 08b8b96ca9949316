// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/copied_bits.h"

#include <optional>

#include "core/base/log.h"
#include "core/base/rare.h"
#include "core/base/table_reader.h"
#include "core/format/findings.h"
#include "core/image/snapshots.h"

namespace qcow2 {

Result<std::uint64_t> CopiedBits::count_to_come(HostOffset host, const CountChanges &changes)
{
    const HostCluster cluster = geometry_.cluster_of(host);
    return TRY(counts_.of(cluster)) + static_cast<std::uint64_t>(changes.of(cluster));
}

Result<bool> CopiedBits::wanted(HostOffset host, const CountChanges &changes)
{
    return TRY(count_to_come(host, changes)) == 1;
}

Result<CopiedBits::Righted> CopiedBits::put_right(L2Table &table, const CountChanges &changes)
{
    Righted righted;
    for (std::uint64_t i = 0; i < table.entries(); ++i) {
        const HostOffset host = host_cluster(TRY(table.get(i)));
        if (host.value == 0)
            continue;
        std::uint8_t *word = &table.bytes()[i * geometry_.l2_entry_bytes()];
        const std::uint64_t raw = load_be64(word);
        const std::uint64_t right =
            TRY(wanted(host, changes)) ? raw | entry_copied : raw & ~entry_copied;
        store_be64(word, right);
        righted.set |= (right & ~raw) != 0;
        righted.cleared |= (raw & ~right) != 0;
    }
    return righted;
}

Result<CopiedBits::Shared> CopiedBits::shared_with(std::span<const Snapshot> others)
{
    Shared shared;
    std::unordered_set<HostOffset> ours;
    for (const L1Entry &entry : active_.l1())
        if (entry.present())
            ours.insert(entry.l2_table());
    const auto visit = [&](std::uint64_t, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto entry = decode_l1_entry(raw, geometry_);
        if (!entry)
            shared.perhaps_any = true;
        else if (entry->present() && ours.contains(entry->l2_table()))
            shared.tables.insert(entry->l2_table());
        return {};
    };
    TableBuffer buffer;
    for (const Snapshot &snapshot : others)
        if (has_l1_table(snapshot, image_.store()))
            TRY(for_each_entry(image_.store(), buffer, snapshot.l1_table_offset.value,
                               snapshot.l1_size, 8, visit)
                    .in("{}, L1 table at {:#x}", words_for(snapshot),
                        snapshot.l1_table_offset.value));
        else
            shared.perhaps_any = true;
    return shared;
}

// What a count says is not believed. It may be too high: in a crash a table that was copied
// keeps the count of a name that is gone, and a snapshot that is applied makes it the disk's
// again. It may be too low where the image is damaged. The snapshots know who names a table.
Result<bool> CopiedBits::is_shared(HostOffset table, const Shared &shared,
                                   const CountChanges &changes, std::int64_t names_more)
{
    const std::uint64_t ours = 1 + static_cast<std::uint64_t>(names_more);
    const std::uint64_t names = TRY(count_to_come(table, changes));
    if (names > ours)
        RARE("the count of a table is higher than what names it (W6)");
    return names < ours || shared.tables.contains(table) || (names > ours && shared.perhaps_any);
}

// Those that go, and the new ones have `names_more` names besides the active one. Where others
// name a table, too, bits that could be set stay clear: the next writer copies.
Result<std::vector<std::size_t>> CopiedBits::wrong_tables(const CountChanges &changes,
                                                          std::int64_t names_more,
                                                          std::span<const Snapshot> others)
{
    counts_.forget();
    std::vector<std::size_t> wrong;
    std::optional<Shared> shared;  // asked for by the first table that is wrong
    TRY(active_.for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        const Righted righted = TRY(put_right(table, changes));
        if (!righted.any())
            return {};
        if (!shared)
            shared = TRY(shared_with(others));
        if (!TRY(is_shared(active_.l1()[index].l2_table(), *shared, changes, names_more)))
            wrong.push_back(index);
        else if (righted.cleared)
            return finding(Finding::copied_flag_wrong, "the table is shared");
        return {};
    }));
    return wrong;
}

Result<std::vector<L1Entry>> CopiedBits::move_wrong_tables(Aside &aside, CountChanges &changes,
                                                           std::int64_t names_more,
                                                           std::span<const Snapshot> others)
{
    const std::vector<std::size_t> wrong = TRY(wrong_tables(changes, names_more, others));
    const std::vector<HostOffset> places = TRY(take_scattered(image_, aside, wrong.size()));
    counts_.forget();
    std::vector<L1Entry> l1;
    for (const L1Entry &entry : active_.l1())
        l1.push_back(entry.present()
                         ? L1Entry::of(entry.l2_table(), TRY(wanted(entry.l2_table(), changes)))
                         : entry);
    std::size_t next = 0;
    std::vector<std::pair<HostCluster, std::int64_t>> moved;
    TRY(active_.for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        if (next == wrong.size() || wrong[next] != index)
            return {};
        const HostCluster old = geometry_.cluster_of(active_.l1()[index].l2_table());
        TRY(put_right(table, changes));
        TRY(image_.store().write(places[next].value, table.bytes()));
        l1[index] = L1Entry::of(places[next], names_more == 0);
        moved.emplace_back(old, -(1 + names_more));
        moved.emplace_back(geometry_.cluster_of(places[next]), names_more);
        ++next;
        return {};
    }));
    for (const auto &move : moved)
        changes.add({move.first, 1}, move.second);
    return l1;
}

Result<void> CopiedBits::put_right_in_place(const CountChanges &changes)
{
    counts_.forget();
    std::vector<L1Entry> l1 = active_.l1();
    TRY(active_.for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        const HostOffset place = l1[index].l2_table();
        if (TRY(put_right(table, changes)).any())
            TRY(image_.store().write(place.value, table.bytes()));
        l1[index] = L1Entry::of(place, TRY(wanted(place, changes)));
        return {};
    }));
    if (l1 != active_.l1())
        TRY(image_.store().write(geometry_.offset_of(active_.l1_clusters().first).value,
                                 encode_entries<L1Entry>(l1)));
    return image_.store().flush();
}

void CopiedBits::undo()
{
    Result<void> undone = image_.settle();
    if (undone && image_.header().certain())
        undone = put_right_in_place(CountChanges());
    if (!undone)
        log_debug("bits 63 could not be put back: {}", undone.error().what);
    if (const auto loaded = image_.reload_tables(); !loaded)
        image_.store().fail(loaded.error());
}

Result<void> clear_copied_in_place(Image &image, const Tree &snapshot)
{
    bool written = false;
    TRY(snapshot.for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        const L2Table before = table;
        for (std::uint64_t i = 0; i < table.entries(); ++i)
            table.clear_copied(i);
        if (table == before)
            return {};
        const HostOffset place = snapshot.l1()[index].l2_table();
        if (image.metadata().overlaps_own({image.geometry().cluster_of(place), 1}))
            return finding(Finding::copied_flag_wrong, "the disk uses the table, too");
        written = true;
        return image.store().write(place.value, table.bytes());
    }));
    return written ? image.store().flush() : Result<void>();
}

}  // namespace qcow2
