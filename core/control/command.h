// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The table of commands: what there is, what arguments each takes and what it
// answers. From it the arguments are checked before anything is done, and
// query-commands and query-qmp-schema are made. Any thread.

#pragma once

#include <span>
#include <string>
#include <string_view>

#include "core/base/result.h"
#include "core/control/json.h"
#include "core/control/type.h"

namespace qcow2 {

class Disk;
class Host;

// What a command may use. The disk is nullptr where it does not need one.
struct Situation {
    Host *host = nullptr;
    Disk *disk = nullptr;
};

struct Command {
    // answers: out of itself, at once; looks: at the disk, and also at one that is
    // read-only; changes: the disk. host: asks the server, and for the disk itself.
    enum class Needs { nothing, disk, disk_to_change, host };

    std::string_view name;
    const Type &arguments;  // an object
    const Type &answer;
    Needs needs;
    // The arguments are of their type.
    Result<Json> (*run)(const Situation &situation, const Json &arguments);
};

struct Event {
    std::string_view name;
    const Type &data;
};

std::span<const Command> all_commands();
std::span<const Event> all_events();
const Command *find_command(std::string_view name);

// Enters the disk if the command needs it, runs it, and leaves.
Result<Json> run_command(const Command &command, Host &host, const Json &arguments);

// To be called every second: backups whose lease is over end.
void look_at_leases(Host &host);

// What query-version and the greeting say of us.
Json version();

// The device and the node that the disk is.
constexpr std::string_view disk_name = "disk";

}  // namespace qcow2
