// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What stands below us. A filter is not told; but all modules are in this
// process, and nbdkit loads them from the plugin outwards, so that those which
// were loaded before us are those below us. (Measured with nbdkit 1.32. One
// that stands on both sides is loaded once, as one below.)

#pragma once

#include <span>
#include <string>

namespace qcow2 {

struct ModulesBelow {
    // nbdkit's own file plugin serves the bytes.
    bool file_plugin = false;
    // And each filter between hands on bytes and offsets as they are: what we
    // shall see is what is in the file now. It is checked at the prompt.
    bool identity = false;
    // And none keeps bytes of its own, or minds a second context: what we write is
    // in the file at once. It may grow, if all that growth.h asks for can be proven.
    bool transparent = false;
    // The cow filter is among them: the file need not be writable.
    bool overlay = false;
    // Why it may not, as far as that is a filter: the one nearest to us; else empty.
    std::string keeps_size;
    // A filter that hides failures, also of flushes, by trying again; else empty.
    std::string retrying;
};

// The pure part: from the file names of the modules below.
ModulesBelow judge_modules(std::span<const std::string> modules);

// Before the server serves; modules are not loaded later.
ModulesBelow inspect_modules_below();

}  // namespace qcow2
