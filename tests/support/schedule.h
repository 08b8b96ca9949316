// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Schedule: some threads in every order in which they can take their steps. One runs at a
// time, and before each step it is decided who takes the next one. A depth-first search goes
// through all decisions. What is bounded is how often a thread is stopped that could have gone on.
//
// A source is tested so by compiling it with atomics and locks that are steps.

#pragma once

#include <sched.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <semaphore>
#include <thread>
#include <vector>

namespace qcow2::test {

// This thread, and those that it starts: of threads that run one at a time each would else find
// its processor asleep (ten times as slow).
class OnOneProcessor {
public:
    OnOneProcessor()
    {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        known_ = sched_getaffinity(0, sizeof before_, &before_) == 0;
        if (known_)
            (void)sched_setaffinity(0, sizeof one, &one);
    }
    ~OnOneProcessor()
    {
        if (known_)
            (void)sched_setaffinity(0, sizeof before_, &before_);
    }
    OnOneProcessor(const OnOneProcessor &) = delete;
    OnOneProcessor &operator=(const OnOneProcessor &) = delete;

private:
    cpu_set_t before_;
    bool known_;
};

class Schedule {
public:
    using Bodies = std::vector<std::function<void()>>;

    // Runs the bodies once for each order; before each run, `anew`.
    unsigned explore(unsigned stops_max, const std::function<void()> &anew, const Bodies &bodies)
    {
        stops_max_ = stops_max;
        decisions_.clear();
        const OnOneProcessor on_one_processor;
        std::vector<std::thread> all = start(bodies);
        unsigned runs = 0;
        do {
            anew();
            run();
            ++runs;
        } while (next_order());
        over_ = true;
        for (std::size_t i = 0; i < all.size(); ++i) {
            threads_[i]->turn.release();
            all[i].join();
        }
        return runs;
    }

    // Somebody else may run here: instead of us, or because we say so.
    void step() { go_on(false); }
    void pause() { go_on(true); }
    // Returns after somebody has called wake() for it.
    void wait_for(const void *thing)
    {
        threads_[me]->waits_for = thing;
        go_on(true);
    }
    // Who is running, from 0 on.
    inline static thread_local std::size_t me = 0;

    void wake(const void *thing)
    {
        for (const auto &thread : threads_)
            if (thread->waits_for == thing)
                thread->waits_for = nullptr;
    }

private:
    struct Thread {
        std::binary_semaphore turn{0};
        const void *waits_for = nullptr;
        bool ended = false;
    };
    struct Decision {
        std::size_t taken, options;
    };

    // The threads are the same in all runs: to start one takes longer than to run it.
    std::vector<std::thread> start(const Bodies &bodies)
    {
        over_ = false;
        threads_.clear();
        for (std::size_t i = 0; i < bodies.size(); ++i)
            threads_.push_back(std::make_unique<Thread>());
        std::vector<std::thread> all;
        for (std::size_t i = 0; i < bodies.size(); ++i)
            all.emplace_back([this, &bodies, i] {
                me = i;
                for (;;) {
                    threads_[i]->turn.acquire();
                    if (over_)
                        return;
                    bodies[i]();
                    threads_[i]->ended = true;
                    go_on(true);
                }
            });
        return all;
    }

    void run()
    {
        stops_ = depth_ = 0;
        for (const auto &thread : threads_)
            thread->ended = false;
        running_ = true;
        threads_[decide(threads_.size(), true)]->turn.release();
        all_ended_.acquire();
        running_ = false;
    }

    void go_on(bool freely)
    {
        if (!running_)
            return;  // what happens between two runs is no step
        const std::size_t next = decide(me, freely);
        if (next == me)
            return;
        Thread &mine = *threads_[me];
        const bool ended = mine.ended;
        (next == threads_.size() ? all_ended_ : threads_[next]->turn).release();
        if (!ended)
            mine.turn.acquire();
    }

    // Who runs next, the current one first; nobody, if all have ended.
    std::size_t decide(std::size_t current, bool freely)
    {
        std::vector<std::size_t> able;
        for (std::size_t i = 0; i < threads_.size(); ++i)
            if (!threads_[i]->ended && !threads_[i]->waits_for)
                able.insert(i == current ? able.begin() : able.end(), i);
        if (able.empty()) {
            const bool all_ended =
                std::ranges::all_of(threads_, [](const auto &t) { return t->ended; });
            if (!all_ended) {
                std::fprintf(stderr, "everybody waits\n");
                std::abort();
            }
            return threads_.size();
        }
        const bool stops = able.front() == current && !freely;
        if (able.size() == 1 || (stops && stops_ == stops_max_))
            return able.front();
        if (depth_ == decisions_.size())
            decisions_.push_back({0, able.size()});
        const std::size_t taken = decisions_[depth_++].taken;
        if (stops && taken != 0)
            ++stops_;
        return able[taken];
    }

    bool next_order()
    {
        while (!decisions_.empty() && ++decisions_.back().taken == decisions_.back().options)
            decisions_.pop_back();
        return !decisions_.empty();
    }

    std::binary_semaphore all_ended_{0};
    bool running_ = false, over_ = false;
    // Whoever has the turn touches them.
    std::vector<std::unique_ptr<Thread>> threads_;
    std::vector<Decision> decisions_;
    std::size_t depth_ = 0;
    unsigned stops_ = 0, stops_max_ = 0;
};

}  // namespace qcow2::test
