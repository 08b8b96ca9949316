// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// made(): what a slot points at, made when it is asked for first. Any thread; std::bad_alloc.

#pragma once

#include <atomic>
#include <memory>

namespace qcow2 {

// Two threads may make one: the first that is in stays.
template <class T>
T &made(std::atomic<T *> &slot)
{
    T *there = slot.load(std::memory_order_acquire);
    if (there)
        return *there;
    auto mine = std::make_unique<T>();
    if (slot.compare_exchange_strong(there, mine.get(), std::memory_order_acq_rel))
        return *mine.release();
    return *there;
}

}  // namespace qcow2
