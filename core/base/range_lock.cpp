// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/range_lock.h"

#include "core/base/invariant.h"

namespace qcow2 {

RangeLock::~RangeLock()
{
    Locked lock(mutex_);
    INVARIANT(nodes_.empty());
}

bool RangeLock::meets_earlier(const Node &node) const
{
    for (auto earlier = nodes_.begin(); &*earlier != &node; ++earlier)
        if (earlier->range.overlaps(node.range))
            return true;
    return false;
}

bool RangeLock::acquire(Node &node, Until until)
{
    if (node.range.empty())
        return true;
    Locked lock(mutex_);
    nodes_.push_back(node);
    while (meets_earlier(node)) {
        if (until && std::chrono::steady_clock::now() >= *until) {
            leave(node);
            return false;
        }
        ++waiting_;
        if (until)
            released_.wait_until(mutex_, *until);
        else
            released_.wait(mutex_);
        --waiting_;
    }
    return true;
}

void RangeLock::leave(Node &node)
{
    nodes_.erase(nodes_.iterator_to(node));
    if (waiting_ != 0)
        released_.notify_all();
}

void RangeLock::release(Node &node)
{
    if (node.range.empty())
        return;
    Locked lock(mutex_);
    leave(node);
}

}  // namespace qcow2
