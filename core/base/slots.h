// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Slots: places for things that are made when they are asked for first, and stay until the
// slots go, which own them. With them trees are built of which only those branches are there
// that somebody has touched.
//
// Any thread may look and make, without a lock; std::bad_alloc.

#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace qcow2 {

// Storage: of std::atomic<T *>.
template <class Storage>
class SlotsIn {
public:
    using T = std::remove_pointer_t<typename Storage::value_type::value_type>;

    SlotsIn() = default;
    explicit SlotsIn(std::size_t size) : slots_(size) {}
    ~SlotsIn()
    {
        for (auto &slot : slots_)
            delete slot.load();
    }
    SlotsIn(const SlotsIn &) = delete;
    SlotsIn &operator=(const SlotsIn &) = delete;

    // Nobody else uses either of them.
    void swap(SlotsIn &other) { slots_.swap(other.slots_); }

    std::size_t size() const { return slots_.size(); }

    // nullptr if nothing is there.
    T *find(std::size_t number) const { return slots_[number].load(std::memory_order_acquire); }
    T &made(std::size_t number)
    {
        T *there = find(number);
        return there ? *there : put(number, std::make_unique<T>());
    }
    // What is there afterwards. Two threads may put one: the first that is in stays.
    T &put(std::size_t number, std::unique_ptr<T> mine)
    {
        T *there = nullptr;
        if (slots_[number].compare_exchange_strong(there, mine.get(), std::memory_order_acq_rel))
            return *mine.release();
        return *there;
    }

private:
    Storage slots_{};
};

template <class T, std::size_t size>
using Slots = SlotsIn<std::array<std::atomic<T *>, size>>;
template <class T>
using SlotVector = SlotsIn<std::vector<std::atomic<T *>>>;

}  // namespace qcow2
