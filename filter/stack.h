// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Which nbdkit modules are loaded besides us. A filter is not told who stands
// above or below it, but all are in this process.
//
// It decides only what is checked early, at the prompt, and it may forbid that
// the file grows. That the file *may* grow is proven otherwise: growth.h.

#pragma once

#include <span>
#include <string>

namespace qcow2 {

struct Stack {
    // nbdkit's own file plugin serves the bytes.
    bool file_plugin = false;
    // Each filter that is loaded hands on bytes and offsets as they are: what
    // we shall see below is what is in the file now.
    bool identity = false;
    // The cow filter is among them: the file need not be writable.
    bool overlay = false;
};

// The pure part: from the file names of all modules but ours.
Stack judge_stack(std::span<const std::string> modules);

// Before the server serves; modules are not loaded later.
Stack inspect_stack();

}  // namespace qcow2
