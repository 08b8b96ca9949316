// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/server_end.h"

#include <nbdkit-filter.h>

#include "filter/quiet_thread.h"

namespace qcow2 {

namespace {

constexpr std::chrono::milliseconds between_looks(100);

// Who sleeps as nbdkit wants it is woken when the server is to end; in the thread of a
// connection also when its client has gone, which is no reason to begin anew with the next
// one. So another thread sleeps, for no time.
bool look()
{
    bool has_come = false;
    start_quiet_thread([&] { has_come = nbdkit_nanosleep(0, 0) == -1; }).join();
    return has_come;
}

}  // namespace

Result<void> ServerEnd::check()
{
    const Clock::rep now = Clock::now().time_since_epoch().count();
    Clock::rep next = next_look_.load();
    if (now >= next && next_look_.compare_exchange_strong(next, now + Clock::duration(between_looks).count()))
        has_come_ = look();
    return has_come_.load() ? Result<void>(Error(Errc::shut_down, "the server is about to end")) : Result<void>();
}

}  // namespace qcow2
