// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/idle_thread.h"

#include <atomic>
#include <csignal>
#include <utility>

#include <nbdkit-filter.h>

#include "core/base/log.h"
#include "filter/messages.h"
#include "filter/quiet_thread.h"

// -D qcow2bitmap.settle_signal=N: for tests, which cannot rely on time. The disk
// is idle when this signal comes, and never by itself.
extern "C" {
NBDKIT_DLL_PUBLIC extern int qcow2bitmap_debug_settle_signal;
int qcow2bitmap_debug_settle_signal = 0;
}

namespace qcow2 {

namespace {

std::atomic<unsigned> signals{0};
static_assert(std::atomic<unsigned>::is_always_lock_free);

void count_signal(int) { ++signals; }

void handle_signal(int number)
{
    struct sigaction action = {};
    action.sa_handler = count_signal;
    action.sa_flags = SA_RESTART;
    sigaction(number, &action, nullptr);
}

// We look this often within the quiet time.
constexpr int looks = 4;

// And after so many of them what was not written to any more cools down.
constexpr int looks_between_coolings = 8;

// Whether the disk has been quiet for some looks, one after the other.
class Quiet {
public:
    explicit Quiet(const Disk &disk) : disk_(disk), changes_(disk.changes()) {}

    void begin() { quiet_looks_ = 0; }

    bool look()
    {
        if (qcow2bitmap_debug_settle_signal != 0)
            return std::exchange(signals_, signals.load()) != signals_;
        const std::uint64_t before = std::exchange(changes_, disk_.changes());
        quiet_looks_ = changes_ == before && !disk_.changing() ? quiet_looks_ + 1 : 0;
        return quiet_looks_ >= looks;
    }

private:
    const Disk &disk_;
    std::uint64_t changes_;
    unsigned signals_ = 0;
    int quiet_looks_ = 0;
};

}  // namespace

IdleThread::IdleThread(Disk &disk, std::chrono::milliseconds quiet) : disk_(disk), quiet_(quiet)
{
    if (qcow2bitmap_debug_settle_signal != 0)
        handle_signal(qcow2bitmap_debug_settle_signal);
    thread_ = start_quiet_thread([this] { run(); });
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
    Quiet quiet(disk_);
    for (int look = 1; wait(); ++look) {
        answer();
        if (look % looks_between_coolings == 0)
            cool();
        if (quiet.look() && !disk_.settled()) {
            settle();
            quiet.begin();
        }
    }
}

void IdleThread::cool()
{
    const Result<void> done = guarded([this] { return disk_.cool(); });
    if (!done)
        log_debug("bitmaps: {}", done.error().what);
}

void IdleThread::settle()
{
    const Result<void> done = guarded([this] { return disk_.settle(); });
    // Tried again after the next quiet time; said once.
    if (!done && done.error().what != last_failure_) {
        last_failure_ = done.error().what;
        log_warning("storing what is left while the disk is idle: {}", last_failure_);
    }
}

}  // namespace qcow2
