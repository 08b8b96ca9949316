// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ServerEnd: whether nbdkit has been told to end (SIGTERM, for instance). It tells no filter,
// and waits for the connection for which an image is being opened or repaired, however long
// that takes. So the thread that does this has a Scope, and is stopped at its next read or write.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "core/base/result.h"

namespace qcow2 {

class ServerEnd {
public:
    // What this thread does as long as it lives takes long, and nothing that was acknowledged
    // depends on it. Scopes of one thread do not overlap.
    class Scope {
    public:
        Scope();
        ~Scope();
        Scope(const Scope &) = delete;
        Scope &operator=(const Scope &) = delete;
    };

    // shut_down: in a Scope, and the server is to end. Looks ten times a second at most. Any
    // thread.
    Result<void> check();

private:
    using Clock = std::chrono::steady_clock;

    Result<void> look();

    std::atomic<Clock::rep> next_look_{0};
    std::atomic<bool> has_come_{false};
};

}  // namespace qcow2
