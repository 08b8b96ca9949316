// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// query-qmp-schema: the commands, the events, and the types that they name, in
// the form in which QEMU describes its own.

#pragma once

#include "core/control/command.h"

namespace qcow2 {

// An array of entries, one for each thing. Any thread.
Json describe(std::span<const Command> commands, std::span<const Event> events);

}  // namespace qcow2
