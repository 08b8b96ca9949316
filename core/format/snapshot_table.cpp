// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/snapshot_table.h"

#include <algorithm>
#include <cstring>

#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

// Known extra data: VM state size, disk size, icount (which we only keep).
constexpr std::size_t extra_vm_state_end = 8;
constexpr std::size_t extra_disk_size_end = 16;

std::optional<Finding> check_snapshot(const Snapshot &s, const Geometry &geometry)
{
    const std::uint64_t bytes = std::uint64_t(s.l1_size) * 8;
    if (!geometry.is_aligned(s.l1_table_offset) || bytes > limits::l1_bytes_max ||
        !fits(s.l1_table_offset.value, bytes, std::uint64_t(1) << 63) ||
        (s.l1_size != 0 && s.l1_table_offset.value == 0))
        return Finding::snapshot_l1_wrong;
    if (geometry.version >= 3 && s.extra_data.size() < extra_disk_size_end)
        return Finding::snapshot_extra_data_too_small;
    return std::nullopt;
}

// One record at the beginning of `bytes`; `size` becomes its length without
// padding, as far as it is known.
Result<Snapshot> decode_snapshot(Bytes bytes, std::uint64_t active_disk_size,
                                 const Geometry &geometry, std::uint64_t &size)
{
    on_disk::SnapshotEntry raw;
    size = sizeof raw;
    if (bytes.size() < sizeof raw)
        return finding(Finding::snapshot_table_past_end);
    std::memcpy(&raw, bytes.data(), sizeof raw);

    const std::uint32_t extra_size = raw.extra_data_size.value();
    if (extra_size > limits::snapshot_extra_data_max)
        return finding(Finding::snapshot_extra_data_too_large, std::to_string(extra_size));
    const std::uint32_t id_size = raw.id_size.value();
    const std::uint32_t name_size = raw.name_size.value();
    size = sizeof raw + extra_size + id_size + name_size;  // cannot overflow
    if (bytes.size() < size)
        return finding(Finding::snapshot_table_past_end);

    Snapshot s;
    s.l1_table_offset = HostOffset(raw.l1_table_offset.value());
    s.l1_size = raw.l1_size.value();
    s.date_seconds = raw.date_seconds.value();
    s.date_nanoseconds = raw.date_nanoseconds.value();
    s.guest_runtime = raw.guest_runtime.value();
    s.vm_state_size_32 = raw.vm_state_size.value();

    const Bytes extra = sub(bytes, sizeof raw, extra_size);
    const Bytes id = sub(bytes, sizeof raw + extra_size, id_size);
    const Bytes name = sub(bytes, sizeof raw + extra_size + id_size, name_size);
    s.extra_data.assign(extra.begin(), extra.end());
    s.id.assign(id.begin(), id.end());
    s.name.assign(name.begin(), name.end());
    s.vm_state_size =
        extra_size >= extra_vm_state_end ? load_be64(extra.data()) : s.vm_state_size_32;
    s.disk_size = extra_size >= extra_disk_size_end ? load_be64(extra.data() + extra_vm_state_end)
                                                    : active_disk_size;
    s.finding = check_snapshot(s, geometry);
    return s;
}

}  // namespace

Result<SnapshotTable> decode_snapshot_table(Bytes bytes, std::uint32_t nb_snapshots,
                                            std::uint64_t active_disk_size,
                                            const Geometry &geometry)
{
    SnapshotTable table;
    if (nb_snapshots > limits::snapshots_max)
        return finding(Finding::snapshot_count_too_large, std::to_string(nb_snapshots));
    std::uint64_t position = 0;
    for (std::uint32_t i = 0; i < nb_snapshots; ++i) {
        position = align_up(position, 8);
        const auto where = [&] {
            return formatted("snapshot {}, {:#x} into the table", i, position);
        };
        const Bytes rest = bytes.subspan(std::min<std::uint64_t>(position, bytes.size()));
        std::uint64_t size = 0;
        auto snapshot = decode_snapshot(rest, active_disk_size, geometry, size);
        // Also if the caller has read no more than this.
        if (position + size > limits::snapshot_table_bytes_max)
            return finding(Finding::snapshot_table_too_large, where());
        if (!snapshot)
            return std::move(snapshot).error().in(where());
        position += size;
        table.snapshots.push_back(*std::move(snapshot));
    }
    table.encoded_size = position;
    return table;
}

Buffer encode_snapshot_table(const std::vector<Snapshot> &snapshots)
{
    Buffer out;
    for (const Snapshot &s : snapshots) {
        INVARIANT(s.id.size() <= 0xffff && s.name.size() <= 0xffff);
        INVARIANT(s.extra_data.size() <= limits::snapshot_extra_data_max);
        on_disk::SnapshotEntry raw;
        raw.l1_table_offset = s.l1_table_offset.value;
        raw.l1_size = s.l1_size;
        raw.id_size = static_cast<std::uint16_t>(s.id.size());
        raw.name_size = static_cast<std::uint16_t>(s.name.size());
        raw.date_seconds = s.date_seconds;
        raw.date_nanoseconds = s.date_nanoseconds;
        raw.guest_runtime = s.guest_runtime;
        raw.vm_state_size = s.vm_state_size_32;
        raw.extra_data_size = static_cast<std::uint32_t>(s.extra_data.size());

        Buffer extra = s.extra_data;
        if (extra.size() >= extra_vm_state_end)
            store_be64(extra.data(), s.vm_state_size);
        if (extra.size() >= extra_disk_size_end)
            store_be64(extra.data() + extra_vm_state_end, s.disk_size);

        out.resize(align_up(out.size(), 8));  // the last one is not padded
        const auto *head = reinterpret_cast<const std::uint8_t *>(&raw);
        out.insert(out.end(), head, head + sizeof raw);
        out.insert(out.end(), extra.begin(), extra.end());
        out.insert(out.end(), s.id.begin(), s.id.end());
        out.insert(out.end(), s.name.begin(), s.name.end());
    }
    return out;
}

}  // namespace qcow2
