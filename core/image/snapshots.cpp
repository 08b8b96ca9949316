// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/snapshots.h"

#include <algorithm>
#include <charconv>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

// The table says only itself how long it is: a little first, then more.
Result<SnapshotTable> load_snapshots(ByteStore &store, const Header &header)
{
    if (header.nb_snapshots == 0)
        return SnapshotTable();
    const std::uint64_t offset = header.snapshots_offset.value;
    if (offset >= store.size())
        return finding(Finding::snapshot_table_past_end, hex(offset));
    const std::uint64_t bytes_max =
        std::min(store.size() - offset, limits::snapshot_table_bytes_max);
    for (std::uint64_t length = 64 << 10;; length *= 4) {
        Buffer bytes(std::min(length, bytes_max));
        TRY(store.read(offset, bytes).in("snapshot table"));
        auto table =
            decode_snapshot_table(bytes, header.nb_snapshots, header.size, header.geometry());
        if (table || bytes.size() == bytes_max)
            return std::move(table).in("snapshot table at {:#x}", offset);
    }
}

Result<const Snapshot *> find_snapshot(const SnapshotTable &table, std::string_view id_or_name)
{
    const auto &all = table.snapshots;
    auto found = std::ranges::find(all, id_or_name, &Snapshot::id);
    if (found == all.end())
        found = std::ranges::find(all, id_or_name, &Snapshot::name);
    if (found != all.end())
        return &*found;
    std::string there;
    for (const Snapshot &snapshot : all) {
        if (there.size() > 500) {
            there += ", ...";
            break;
        }
        there += (there.empty() ? "" : ", ") + words_for(snapshot);
    }
    return Error(Errc::not_found, "there is no snapshot with the ID or name {}; the image has {}",
                 quote(id_or_name), there.empty() ? "none" : there);
}

Result<void> check_snapshot(const Snapshot &snapshot, const Geometry &geometry)
{
    if (snapshot.finding)
        return finding(*snapshot.finding).in(words_for(snapshot));
    // First what cannot overflow.
    if (snapshot.disk_size > std::uint64_t(1) << 62 ||
        geometry.l1_entries_for(snapshot.disk_size) * 8 > limits::l1_bytes_max)
        return finding(Finding::disk_size_too_large, "{} bytes", snapshot.disk_size)
            .in(words_for(snapshot));
    return {};
}

bool has_l1_table(const Snapshot &snapshot, const ByteStore &store)
{
    return snapshot.finding != Finding::snapshot_l1_wrong &&
           fits(snapshot.l1_table_offset.value, std::uint64_t(snapshot.l1_size) * 8, store.size());
}

std::string next_snapshot_id(const SnapshotTable &table)
{
    std::uint64_t largest = 0;
    for (const Snapshot &snapshot : table.snapshots) {
        const char *const end = snapshot.id.data() + snapshot.id.size();
        std::uint64_t number = 0;
        const auto parsed = std::from_chars(snapshot.id.data(), end, number);
        if (parsed.ec == std::errc() && parsed.ptr == end && number != ~std::uint64_t(0))
            largest = std::max(largest, number);
    }
    return std::to_string(largest + 1);
}

std::string words_for(const Snapshot &snapshot)
{
    return formatted("snapshot {} (ID {})", quote(snapshot.name), shell_word(snapshot.id));
}

}  // namespace qcow2
