// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/server_end.h"

#include <nbdkit-filter.h>

#include "filter/quiet_thread.h"

namespace qcow2 {

namespace {

constexpr std::chrono::milliseconds between_looks(100);

thread_local bool in_scope = false;

// Who sleeps as nbdkit wants it is woken when the server is to end; in the thread of a
// connection also when its client has gone, which is no reason to begin anew with the next
// one. So another thread sleeps, for no time.
bool told_to_end()
{
    bool told = false;
    start_quiet_thread([&] { told = nbdkit_nanosleep(0, 0) == -1; }).join();
    return told;
}

}  // namespace

ServerEnd::Scope::Scope() { in_scope = true; }
ServerEnd::Scope::~Scope() { in_scope = false; }

Result<void> ServerEnd::check() { return in_scope ? look() : Result<void>(); }

Result<void> ServerEnd::look()
{
    const Clock::rep now = Clock::now().time_since_epoch().count();
    Clock::rep next = next_look_.load();
    if (now >= next &&
        next_look_.compare_exchange_strong(next, now + Clock::duration(between_looks).count()))
        has_come_ = told_to_end();
    return has_come_.load() ? Result<void>(Error(Errc::shut_down, "the server is about to end"))
                            : Result<void>();
}

}  // namespace qcow2
