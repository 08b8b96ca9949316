// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// HeldStore: a store in which a thread can be held where it is about to write, until the test
// has done something else; and how the test waits for that.

#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "tests/support/memory_store.h"

namespace qcow2::test {

// Asks before each write, durable or not, whether it may go on; who asks may wait.
class HeldStore final : public MemoryStore {
public:
    using MemoryStore::MemoryStore;

    std::function<void(std::uint64_t offset, bool durable)> before_write = [](std::uint64_t, bool) {
    };

    Result<void> write(std::uint64_t offset, Bytes bytes) override
    {
        before_write(offset, false);
        return MemoryStore::write(offset, bytes);
    }
    Result<void> write_durable(std::uint64_t offset, Bytes bytes) override
    {
        before_write(offset, true);
        TRY(MemoryStore::write(offset, bytes));
        return flush();
    }
};

// False if it has not come true after a time in which anything comes true that will.
inline bool comes_true(const std::function<bool()> &condition)
{
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition() && std::chrono::steady_clock::now() < end)
        std::this_thread::yield();
    return condition();
}

inline void wait_for(const std::atomic<bool> &flag)
{
    while (!flag)
        std::this_thread::yield();
}

}  // namespace qcow2::test
