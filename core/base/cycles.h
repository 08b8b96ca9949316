// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Cycles: work that one thread does for all that wait for it (group commit). One
// cycle runs at a time. A thread that asks while one is under way needs the next,
// for this one may have begun too early; all that wait share it.
//
// Any thread. No lock is held while the work is done.

#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "core/base/mutex.h"
#include "core/base/result.h"

namespace qcow2 {

class Cycles {
public:
    explicit Cycles(Rank rank) : mutex_(rank) {}
    Cycles(const Cycles &) = delete;
    Cycles &operator=(const Cycles &) = delete;

    // What a cycle has said that began after the call. If several have ended
    // meanwhile, what the last of them has said: it stands for those before it.
    // An exception goes to the one who did the work; the others get an error.
    template <class Work>
    Result<void> run(Work work) EXCLUDES(mutex_)
    {
        Locked lock(mutex_);
        const std::uint64_t needed = begun_ + 1;
        while (ended_ < needed) {
            if (running_) {
                changed_.wait(mutex_);
                continue;
            }
            running_ = true;
            ++begun_;
            try {
                const Unlocked meanwhile(mutex_);
                end_with_ = work();
            } catch (...) {
                end_with_ = Error(Errc::io, "out of memory");  // short: needs none
                end();
                throw;
            }
            end();
        }
        return last_;
    }

private:
    void end() REQUIRES(mutex_)
    {
        last_ = std::move(end_with_);
        running_ = false;
        ended_ = begun_;
        changed_.notify_all();
    }

    Mutex mutex_;
    Condition changed_;
    bool running_ GUARDED_BY(mutex_) = false;
    std::uint64_t begun_ GUARDED_BY(mutex_) = 0;
    std::uint64_t ended_ GUARDED_BY(mutex_) = 0;
    Result<void> last_ GUARDED_BY(mutex_);
    Result<void> end_with_;  // only for the one who runs
};

}  // namespace qcow2
