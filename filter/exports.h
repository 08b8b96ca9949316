// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Exports: those of a disk, by their names: the one place where a name becomes one, and
// where the list of them is made.
//
//   (empty)               the disk
//   snapshot/ID-or-NAME   an internal snapshot, as it is, while the disk is written
//   backup/...            what a running backup shows (backup_exports.h)
//
// Any thread.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "filter/backup_exports.h"
#include "filter/export.h"

namespace qcow2 {

class Exports {
public:
    // The disk outlives this, and this outlives the exports.
    explicit Exports(Disk &disk) : disk_(disk) {}

    // All that there are at this moment. One that has no name that can be listed, or is of
    // no use, is left out.
    std::vector<ExportName> list();

    // not_found: there is none of this name, and the message lists those that there are.
    Result<std::unique_ptr<Export>> open(std::string_view name);

private:
    std::vector<ServedBackup> running_backups();

    Disk &disk_;
    BackupExports backups_;
};

}  // namespace qcow2
