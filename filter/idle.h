// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// IdleThread: when nobody has changed the disk for a while, brings the file to
// what a clean stop leaves. For nbdkit may never stop cleanly: with a client
// connected it answers SIGTERM by waiting for the client, without telling us,
// and then somebody kills it.

#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "core/disk.h"

namespace qcow2 {

class IdleThread {
public:
    // Starts the thread. The disk must outlive it.
    IdleThread(Disk &disk, std::chrono::milliseconds quiet);
    // Returns when the thread has ended.
    ~IdleThread();
    IdleThread(const IdleThread &) = delete;
    IdleThread &operator=(const IdleThread &) = delete;

private:
    void run();
    bool wait();
    void settle();

    Disk &disk_;
    const std::chrono::milliseconds quiet_;
    std::string last_failure_;  // only the thread

    std::mutex mutex_;
    std::condition_variable stopped_;
    bool stop_ = false;  // under mutex_
    std::thread thread_;
};

}  // namespace qcow2
