// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Calls of the C library that fail while a test wants it, and syslog, which keeps what it
// was told: the program has functions of these names of its own, which come first.

#pragma once

#include <string>

namespace qcow2::test {

enum class Call { open, opendir, readdir, fstat };

// As long as it lives, the call fails with this errno from its n-th time on, so many times.
// One at a time.
class FailingCall {
public:
    FailingCall(Call call, int cause, unsigned nth = 1, unsigned times = ~0u);
    ~FailingCall();
    FailingCall(const FailingCall &) = delete;
    FailingCall &operator=(const FailingCall &) = delete;
};

// The last message for syslog, and the priority that it came with.
struct SystemLog {
    int priority = -1;
    std::string text;
};
SystemLog &system_log();

}  // namespace qcow2::test
