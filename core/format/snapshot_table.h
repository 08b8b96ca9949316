// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The snapshot table: records <-> structs. Unknown extra data survive. Pure.
//
// decode returns every record that has the form of one, the bad ones with
// their finding: the disk can be served beside a snapshot that cannot (and
// QEMU does that). Only a table whose records cannot be told apart is an error.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/format/findings.h"
#include "core/format/header.h"

namespace qcow2 {

namespace on_disk {
// qcow2.rst, "Snapshots".
struct SnapshotEntry {
    be64 l1_table_offset;   //  0 -  7
    be32 l1_size;           //  8 - 11: entries
    be16 id_size;           // 12 - 13
    be16 name_size;         // 14 - 15
    be32 date_seconds;      // 16 - 19
    be32 date_nanoseconds;  // 20 - 23
    be64 guest_runtime;     // 24 - 31: ns
    be32 vm_state_size;     // 32 - 35
    be32 extra_data_size;   // 36 - 39
    // then extra data, ID, name, and padding up to a multiple of 8
};
static_assert(sizeof(SnapshotEntry) == 40);
}  // namespace on_disk

struct Snapshot {
    HostOffset l1_table_offset;
    std::uint32_t l1_size = 0;  // entries
    std::string id;
    std::string name;
    std::uint32_t date_seconds = 0;
    std::uint32_t date_nanoseconds = 0;
    std::uint64_t guest_runtime = 0;     // ns
    std::uint64_t vm_state_size = 0;     // bytes
    std::uint64_t disk_size = 0;         // bytes; the active disk's if the record does not say
    std::uint32_t vm_state_size_32 = 0;  // the old field as it stands
    Buffer extra_data;                   // all of it, as it stands

    // Why it cannot be used: snapshot_l1_wrong (do not follow its L1 table) or
    // snapshot_extra_data_too_small (disk_size is a guess).
    std::optional<Finding> finding;

    friend bool operator==(const Snapshot &, const Snapshot &) = default;
};

struct SnapshotTable {
    std::vector<Snapshot> snapshots;
    std::uint64_t encoded_size = 0;  // bytes; the last entry is not padded in QEMU's files
};

// bytes: from the table's beginning, at least the whole table (at most 64 MiB;
// a longer span is no error). nb_snapshots and active_disk_size from the header.
Result<SnapshotTable> decode_snapshot_table(Bytes bytes, std::uint32_t nb_snapshots,
                                            std::uint64_t active_disk_size,
                                            const Geometry &geometry);
Buffer encode_snapshot_table(const std::vector<Snapshot> &snapshots);

}  // namespace qcow2
