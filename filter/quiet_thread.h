// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A thread of ours beside nbdkit's: signals are for the threads of the server.

#pragma once

#include <csignal>
#include <thread>
#include <utility>

namespace qcow2 {

template <class Body>
std::thread start_quiet_thread(Body body)
{
    struct Blocked {
        Blocked()
        {
            sigset_t all;
            sigfillset(&all);
            pthread_sigmask(SIG_SETMASK, &all, &before);
        }
        ~Blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
        sigset_t before;
    } blocked;
    return std::thread(std::move(body));
}

}  // namespace qcow2
