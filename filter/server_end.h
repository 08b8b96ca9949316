// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ServerEnd: whether nbdkit has been told to end (SIGTERM, for instance). It tells no filter,
// and waits for the connection for which an image is being opened or repaired, however long
// that takes: who does that asks here.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "core/base/result.h"

namespace qcow2 {

class ServerEnd {
public:
    // shut_down: it is to end. Looks ten times a second at most. Any thread.
    Result<void> check();

private:
    using Clock = std::chrono::steady_clock;

    std::atomic<Clock::rep> next_look_{0};
    std::atomic<bool> has_come_{false};
};

}  // namespace qcow2
