// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/idle.h"

#include <csignal>

#include "core/base/log.h"
#include "filter/report.h"

namespace qcow2 {

namespace {

// We look this often within the quiet time.
constexpr int looks = 4;

// And after so many of them what was not written to any more cools down.
constexpr int looks_between_coolings = 8;

}  // namespace

IdleThread::IdleThread(Disk &disk, std::chrono::milliseconds quiet) : disk_(disk), quiet_(quiet)
{
    // Signals are for the threads of the server.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        thread_ = std::thread([this] { run(); });
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

IdleThread::~IdleThread()
{
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wanted_.notify_all();
    thread_.join();
}

void IdleThread::settle_now()
{
    std::unique_lock<std::mutex> lock(mutex_);
    const std::uint64_t mine = ++asked_;
    wanted_.notify_all();
    done_.wait(lock, [&] { return answered_ >= mine; });
}

// True if it goes on.
bool IdleThread::wait()
{
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_.wait_for(lock, quiet_ / looks, [this] { return stop_ || asked_ != answered_; });
    return !stop_;
}

// To those who have asked until now.
void IdleThread::answer()
{
    std::unique_lock<std::mutex> lock(mutex_);
    const std::uint64_t asked = asked_;
    if (asked == answered_)
        return;
    lock.unlock();
    settle();
    lock.lock();
    answered_ = asked;
    done_.notify_all();
}

void IdleThread::run()
{
    std::uint64_t seen = disk_.changes();
    int quiet_looks = 0;
    for (int look = 1; wait(); ++look) {
        answer();
        if (look % looks_between_coolings == 0)
            cool();
        const std::uint64_t changes = disk_.changes();
        quiet_looks = changes == seen && !disk_.changing() ? quiet_looks + 1 : 0;
        seen = changes;
        if (quiet_looks >= looks && !disk_.settled()) {
            settle();
            quiet_looks = 0;
        }
    }
}

void IdleThread::cool()
{
    const Result<void> done = guarded([this] { return disk_.cool(); });
    if (!done)
        log_debug("bitmaps: " + done.error().what);
}

void IdleThread::settle()
{
    const Result<void> done = guarded([this] { return disk_.settle(); });
    // Tried again after the next quiet time; said once.
    if (!done && done.error().what != last_failure_) {
        last_failure_ = done.error().what;
        log_warning("storing what is left while the disk is idle: " + last_failure_);
    }
}

}  // namespace qcow2
