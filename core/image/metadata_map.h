// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// MetadataMap: which host clusters hold metadata. Images lie: before a guest's
// bytes are written through a pointer from the file, and before a cluster
// with refcount 0 is taken, this is asked.
//
// It knows what was named when the image was opened (header, L1, refcount
// structures, active L2 tables, snapshot table, L1 tables of snapshots, bitmap
// directory, tables and data) and what the engine made since.
//
// Any thread.

#pragma once

#include <cstdint>
#include <shared_mutex>
#include <unordered_set>

#include "core/format/units.h"

namespace qcow2 {

class MetadataMap {
public:
    // Adds clusters. False if one of them was in the map already.
    bool add(HostRun run);
    void remove(HostRun run);
    bool overlaps(HostRun run) const;

private:
    // Not a Mutex: it is the innermost of all, and read by every write.
    mutable std::shared_mutex mutex_;
    std::unordered_set<HostCluster> clusters_;
};

}  // namespace qcow2
