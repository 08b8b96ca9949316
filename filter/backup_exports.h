// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What is served of the backups that are running:
//
//   backup/ID                     the frozen disk
//   backup/ID/dirty[/NAME]        the same; block status tells what the bitmap has dirty
//   backup/ID.qcow2               a qcow2 file with all of the disk, made on the fly
//   backup/ID/dirty[/NAME].qcow2  one with what is dirty
//
// NAME is that of the bitmap; it may be left out where the backup has one. Those without
// `dirty` are there if all of the disk is frozen.
//
// Any thread.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/backup/backup_source.h"
#include "core/backup/qcow2_file.h"
#include "core/base/mutex.h"
#include "filter/export.h"

namespace qcow2 {

// One that is running.
struct ServedBackup {
    std::string id;
    std::shared_ptr<BackupSource> source;
    std::shared_ptr<const void> identity;  // another one for another backup with the same ID
    bool whole = false;                    // all of the disk is frozen
    std::string backing_file;              // what a dirty file names; empty: nothing
    std::string backing_format;
};

class BackupExports {
public:
    static constexpr std::string_view prefix = "backup/";

    // Those of one backup, as they are listed.
    static void list(const ServedBackup &backup, std::vector<ExportName> &exports);

    // not_found: none of these backups has an export of that name.
    Result<std::unique_ptr<Export>> open(const std::vector<ServedBackup> &backups,
                                         std::string_view name) EXCLUDES(mutex_);

private:
    // A file has one size and one layout as long as its backup runs, for all who read it.
    struct Made {
        std::weak_ptr<const void> backup;
        std::optional<std::size_t> dirty;
        std::shared_ptr<const Qcow2File> file;
    };

    struct What {
        const ServedBackup *backup = nullptr;
        std::optional<std::size_t> dirty;  // index of the bitmap
        bool file = false;
    };
    static Result<What> find(const std::vector<ServedBackup> &backups, std::string_view name);
    static Result<What> find(const ServedBackup &backup, std::string_view rest);
    Result<std::shared_ptr<const Qcow2File>> file(const What &what) EXCLUDES(mutex_);

    Mutex mutex_{Rank::files};
    std::vector<Made> made_ GUARDED_BY(mutex_);
};

}  // namespace qcow2
