// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Plan: the steps of one command or transaction, each checked against what the disk
// has and what the steps before it have made of that, with QEMU's sentences, before
// the first one is taken. The disk refuses what is left, all or nothing.
//
// Between check and change nobody else changes bitmaps or snapshots: commands run
// one at a time. One thread.

#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/control/backup_commands.h"
#include "core/control/json.h"
#include "core/disk.h"

namespace qcow2 {

class Plan {
public:
    // Reads what the disk has.
    static Result<Plan> of(const Situation &situation);

    // An action by its name in a transaction, with its data, which is of its type.
    Result<void> add(std::string_view action, const Json &data);
    // All of them, as one change; the answer to backup-begin, if there was one, else
    // nullopt.
    Result<std::optional<Json>> carry_out() const;

private:
    struct Bitmap {
        bool busy = false;
        bool inconsistent = false;
        bool enabled = true;
        bool removed = false;  // by a step: as good as in use until the end
    };

    Result<void> add_bitmap(const Json &data);
    Result<void> remove_bitmap(const Json &data);
    Result<void> merge_bitmaps(const Json &data);
    Result<void> make_snapshot(const Json &data);
    Result<void> begin_backup(const Json &data);
    std::string next_backup_id() const;
    std::optional<std::string> why_not_incremental(const std::string &bitmap) const;
    template <class Change>
    Result<void> change_bitmap(const Json &data);
    Result<std::string> usable(const Json &data, std::string_view member = "name") const;
    Result<const Bitmap *> find(const std::string &name) const;

    explicit Plan(const Situation &situation) : situation_(situation) {}

    Situation situation_;
    std::map<std::string, Bitmap> bitmaps_;
    std::set<std::string> snapshot_names_;
    std::vector<DiskStep> steps_;
    std::optional<PlannedBackup> backup_;
};

// The node or device that a command names is the disk; else QEMU's sentence.
Result<void> check_node(const Json &arguments, std::string_view member);
Result<void> check_device_or_node(const Json &arguments, std::string_view member);

}  // namespace qcow2
