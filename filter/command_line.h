// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What nbdkit's command line says and nbdkit does not tell filters before the
// first client comes.

#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace qcow2 {

// Of this process: the program's name first. Empty if that cannot be found out.
std::vector<std::string> server_arguments();

// Whether these arguments of nbdkit have -r. For a server it is used as a hint
// alone: what is told at the prompt depends on it, and nothing that is written.
bool asks_for_read_only(std::span<const std::string> arguments);

// Whether they (or a service manager that has opened the socket) keep nbdkit in
// the foreground, so that what it says later can be seen.
bool stays_in_foreground(std::span<const std::string> arguments);

// Whether a connection has one thread only (-t 1).
bool has_one_thread(std::span<const std::string> arguments);

// The user and the group that nbdkit takes on (-u, -g): names or numbers.
std::optional<std::string> asked_for_user(std::span<const std::string> arguments);
std::optional<std::string> asked_for_group(std::span<const std::string> arguments);

// Where nbdkit sends its errors (--log). by_place: to standard error in the foreground, to
// syslog when it has gone into the background.
enum class LogTarget { by_place, standard_error, system_log, nothing };
LogTarget log_target(std::span<const std::string> arguments);

// Whether they ask for debug messages.
bool asks_to_be_verbose(std::span<const std::string> arguments);

// Where clients come, as a URI of the empty export: of a unix socket, or of a port of this
// machine. nullopt: it cannot be told from the arguments. make_absolute: of a path.
std::optional<std::string> nbd_uri(
    std::span<const std::string> arguments,
    const std::function<std::string(const std::string &)> &make_absolute);

// asks_for_read_only() of this process; false if that cannot be found out.
bool server_asked_for_read_only();

}  // namespace qcow2
