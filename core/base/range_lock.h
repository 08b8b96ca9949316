// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// RangeLock: ranges that one thread has to itself. Two ranges that overlap are
// never held at once; others do not meet.
//
// First come, first served: a range waits for every earlier one that it
// overlaps, held or still waiting, so nobody starves. That is why a thread may
// hold one range of a RangeLock at a time: a second one could wait for a
// thread that waits for the first. An empty range overlaps nothing.
//
// Any thread. The mutex inside is held for the length of a list walk only, not
// while the range is held.

#pragma once

#include <chrono>
#include <optional>

#include <boost/intrusive/list.hpp>

#include "core/base/mutex.h"
#include "core/base/range.h"

namespace qcow2 {

class RangeLock {
public:
    class Guard;

    explicit RangeLock(Rank rank) : mutex_(rank) {}
    ~RangeLock();
    RangeLock(const RangeLock &) = delete;
    RangeLock &operator=(const RangeLock &) = delete;

private:
    using Hook =
        boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::safe_link>>;

    struct Node : Hook {
        explicit Node(Range range) : range(range) {}
        const Range range;
    };

    using Until = std::optional<std::chrono::steady_clock::time_point>;

    // False: it was not to be had until then.
    bool acquire(Node &node, Until until) EXCLUDES(mutex_);
    void release(Node &node) EXCLUDES(mutex_);
    void leave(Node &node) REQUIRES(mutex_);
    bool meets_earlier(const Node &node) const REQUIRES(mutex_);

    Mutex mutex_;
    Condition released_;
    // Held and waiting, in the order of their coming. The nodes live in the
    // guards.
    boost::intrusive::list<Node> nodes_ GUARDED_BY(mutex_);
    unsigned waiting_ GUARDED_BY(mutex_) = 0;
};

// Holds a range for the current scope; waits for it first, for ever or until then.
class RangeLock::Guard {
public:
    Guard(RangeLock &lock, Range range, Until until = std::nullopt)
        : lock_(lock), node_(range), held_(lock_.acquire(node_, until))
    {
    }
    ~Guard()
    {
        if (held_)
            lock_.release(node_);
    }
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;

    bool held() const { return held_; }

private:
    RangeLock &lock_;
    Node node_;
    const bool held_;
};

}  // namespace qcow2
