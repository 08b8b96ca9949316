// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// WaitingThread: a thread of which a test can know that it has come to where it
// waits for others. (To give it some milliseconds for that is to guess, and on a
// busy machine to guess wrong.)

#pragma once

#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include <unistd.h>

namespace qcow2::test {

class WaitingThread {
public:
    template <class Work>
    explicit WaitingThread(Work work)
        : thread_([this, work = std::move(work)] {
              id_ = gettid();
              work();
          })
    {
    }

    // Until the kernel says that it sleeps, or has ended. Only for work that sleeps nowhere else.
    void wait_until_asleep() const
    {
        while (id_ == 0 || (state() != 'S' && state() != '?'))
            std::this_thread::yield();
    }

    void join() { thread_.join(); }
    bool joinable() const { return thread_.joinable(); }

private:
    // Of "ID (NAME) STATE ..."; proc(5).
    char state() const
    {
        std::ifstream file("/proc/self/task/" + std::to_string(id_) + "/stat");
        std::string line;
        std::getline(file, line);
        const auto name_end = line.rfind(')');
        return name_end + 2 < line.size() ? line[name_end + 2] : '?';
    }

    std::atomic<pid_t> id_{0};
    std::thread thread_;
};

}  // namespace qcow2::test
