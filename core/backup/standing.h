// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Standing: what is to be thought of a frozen disk: it is true, or it is broken,
// or its backup has ended. It is true first, and becomes one of the others once.
//
// Any thread.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "core/base/mutex.h"
#include "core/base/result.h"

namespace qcow2 {

class Standing {
public:
    // Told once, when it is broken, by the thread whose change could not be kept: it must be
    // quick, and call nothing of FrozenDisks that takes a lock.
    using Listener = std::function<void(const std::string &reason)>;

    // name: of the backup, for messages. true_ones: how many there are, with this one; counted
    // down when it is none any more. Must outlive every call of give_up() and end().
    Standing(std::string name, Listener listener, std::atomic<unsigned> &true_ones)
        : name_(std::move(name)), listener_(std::move(listener)), true_ones_(true_ones)
    {
    }
    Standing(const Standing &) = delete;
    Standing &operator=(const Standing &) = delete;

    const std::string &name() const { return name_; }
    bool is_true() const { return state_.load() == State::is_true; }

    // What it shows may be wrong from now on (F2, F3). Throws nothing, and needs no memory: the
    // reason is lost where there is none.
    void give_up(const char *what, const std::string &details = {}) noexcept EXCLUDES(mutex_);
    void end() EXCLUDES(mutex_);

    // io, with the reason, if it is not true.
    Result<void> check() const EXCLUDES(mutex_);
    // The reason.
    std::optional<std::string> broken() const EXCLUDES(mutex_);

private:
    enum class State { is_true, broken, ended };

    const std::string name_;
    const Listener listener_;
    std::atomic<unsigned> &true_ones_;
    mutable Mutex mutex_{Rank::standing};
    std::atomic<State> state_{State::is_true};  // changed with the lock
    std::string reason_ GUARDED_BY(mutex_);
};

}  // namespace qcow2
