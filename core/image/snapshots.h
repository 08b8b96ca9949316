// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Internal snapshots as they stand in the file: reading their table, finding
// one. Any thread.

#pragma once

#include <string>
#include <string_view>

#include "core/base/byte_store.h"
#include "core/format/snapshot_table.h"

namespace qcow2 {

struct NewSnapshot {
    std::string name;                // 1 to 255 bytes, as many as QEMU shows; no zero
    std::uint32_t date_seconds = 0;  // since the epoch
    std::uint32_t date_nanoseconds = 0;
};

// All of them; none if the header names none.
Result<SnapshotTable> load_snapshots(ByteStore &store, const Header &header);

// The one with this ID, else the first with this name. not_found. (QEMU takes
// the ID first when it applies or reads a snapshot, the name when it deletes.)
Result<const Snapshot *> find_snapshot(const SnapshotTable &table, std::string_view id_or_name);

// Whether it can be followed: its finding, or a disk that no L1 table reaches.
Result<void> check_snapshot(const Snapshot &snapshot, const Geometry &geometry);

// Whether its L1 table is where it can be: if not it is not to be followed.
bool has_l1_table(const Snapshot &snapshot, const ByteStore &store);

// The ID that a new one gets, as QEMU: one more than the largest number.
std::string next_snapshot_id(const SnapshotTable &table);

// For messages: "snapshot 'before' (ID 1)".
std::string words_for(const Snapshot &snapshot);

}  // namespace qcow2
