// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// backup-begin, backup-end and query-backups, which QEMU does not have.

#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/control/command.h"
#include "core/disk.h"

namespace qcow2 {

// What backup-begin asks for.
struct PlannedBackup {
    BackupRequest request;
    std::string why_full;                 // auto, and not incremental: why
    std::optional<std::int64_t> timeout;  // seconds
};

// Why a bitmap cannot say what has changed; nullopt: it can.
using WhyNotIncremental = std::function<std::optional<std::string>(const std::string &bitmap)>;

// From the arguments, which are of their type. next_id: if they give none.
Result<PlannedBackup> plan_backup(const Json &arguments, const std::string &next_id,
                                  const WhyNotIncremental &why_not_incremental);
// The answer to a backup that has begun, of which the lease begins.
Json describe_begun(Host &host, const PlannedBackup &planned, const Backup &backup);

Result<Json> backup_end(const Situation &situation, const Json &arguments);
Result<Json> query_backups(const Situation &situation, const Json &arguments);

}  // namespace qcow2
