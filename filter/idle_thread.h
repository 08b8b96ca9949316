// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// IdleThread: when nobody has changed the disk for a while, or nobody is there
// any more, brings the file to what a clean stop leaves. For nbdkit may never stop cleanly:
// with a client connected it answers SIGTERM by waiting for the client, without telling us,
// and then somebody kills it.

#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
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
    // Lets the thread do it now, and returns when it has tried. For a connection
    // that ends: nbdkit does not let that one sleep any more, and layers that want
    // to sleep fail it (delay, rate).
    void settle_now();
    IdleThread(const IdleThread &) = delete;
    IdleThread &operator=(const IdleThread &) = delete;

private:
    void run();
    bool wait();
    void settle();
    void cool();
    void answer();

    Disk &disk_;
    const std::chrono::milliseconds quiet_;
    std::string last_failure_;  // only the thread

    std::mutex mutex_;
    // Both ways: the thread is wanted, and it has done what was wanted.
    std::condition_variable wanted_, done_;
    bool stop_ = false;        // this and the next two: under mutex_
    std::uint64_t asked_ = 0;  // how often settle_now() was called
    std::uint64_t answered_ = 0;
    std::thread thread_;
};

}  // namespace qcow2
