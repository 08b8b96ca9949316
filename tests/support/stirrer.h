// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Stirrer: lets other threads in at moments drawn from a seed. Stores in
// memory are so fast that threads would hardly ever meet.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace qcow2::test {

class Stirrer {
public:
    // 0: does nothing.
    explicit Stirrer(std::uint64_t seed = 0) : state_(seed) {}

    void stir(std::uint64_t seed) { state_ = seed; }

    // Any thread.
    void turn()
    {
        if (state_ == 0)
            return;
        const std::uint64_t drawn =
            state_.fetch_add(0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u >> 56;
        if (drawn < 8)
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        else if (drawn < 64)
            std::this_thread::yield();
    }

private:
    std::atomic<std::uint64_t> state_;
};

}  // namespace qcow2::test
