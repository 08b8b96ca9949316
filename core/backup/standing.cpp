// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/standing.h"

#include <new>

#include "core/base/log.h"

namespace qcow2 {

void Standing::give_up(const char *what, const std::string &details) noexcept
{
    std::string reason;
    try {
        reason.append(what).append(details);
    } catch (const std::bad_alloc &) {
        reason = "out of memory";  // short: needs none
    }
    {
        Locked lock(mutex_);
        if (!is_true())
            return;
        reason_.swap(reason);
        state_ = State::broken;
    }
    --true_ones_;
    try {
        if (listener_)
            listener_(*broken());
    } catch (const std::bad_alloc &) {
        // Its readers get the error.
    }
}

void Standing::end()
{
    Locked lock(mutex_);
    if (is_true())
        --true_ones_;
    state_ = State::ended;
}

Result<void> Standing::check() const
{
    if (is_true())
        return {};
    Locked lock(mutex_);
    if (state_.load() == State::ended)
        return Error(Errc::io, "backup {} has ended", quote(name_));
    return Error(Errc::io, "backup {} is broken: {}", quote(name_), reason_);
}

std::optional<std::string> Standing::broken() const
{
    Locked lock(mutex_);
    if (reason_.empty())
        return std::nullopt;
    return reason_;
}

}  // namespace qcow2
