// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the queries say of the disk.

#pragma once

#include "core/control/command.h"
#include "core/format/snapshot_table.h"

namespace qcow2 {

Json describe_snapshot(const Snapshot &snapshot);

// Of query-status, query-block, query-named-block-nodes, query-block-exports.
Result<Json> query_status(const Situation &situation, const Json &arguments);
Result<Json> query_block(const Situation &situation, const Json &arguments);
Result<Json> query_named_block_nodes(const Situation &situation, const Json &arguments);
Result<Json> query_block_exports(const Situation &situation, const Json &arguments);

}  // namespace qcow2
