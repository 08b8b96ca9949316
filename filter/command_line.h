// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What nbdkit's command line says and nbdkit does not tell filters before the
// first client comes.

#pragma once

#include <span>
#include <string>

namespace qcow2 {

// Whether these arguments of nbdkit, the program's name first, have -r. It is
// used as a hint alone: what is told at the prompt depends on it, and nothing
// that is written.
bool asks_for_read_only(std::span<const std::string> arguments);

// The same of this process; false if that cannot be found out.
bool server_asked_for_read_only();

}  // namespace qcow2
