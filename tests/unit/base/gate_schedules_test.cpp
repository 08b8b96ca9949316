// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The gate in every order in which a few threads can take its steps.
//
// The source of the gate is compiled here with atomics and locks that are steps
// of a schedule: one thread runs at a time, and before each step it is decided
// who takes the next one. A depth-first search goes through all decisions. What
// is bounded is how often a thread is stopped that could have gone on; where
// the threads below say pause(), a change costs nothing.

#include <boost/test/unit_test.hpp>

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <semaphore>
#include <set>
#include <thread>
#include <vector>

#include "core/base/invariant.h"
#include "core/base/lane.h"
#include "core/base/mutex.h"

namespace {

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
    static thread_local std::size_t me;

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

thread_local std::size_t Schedule::me = 0;

Schedule schedule;

}  // namespace

// What the gate's source calls std and qcow2.

namespace stepped_std {

using std::abort, std::fprintf, std::uint64_t;

template <class T>
class atomic {
public:
    atomic(T value) : value_(value) {}
    T load() const { return schedule.step(), value_; }
    operator T() const { return load(); }
    T operator=(T value) { return schedule.step(), value_ = value; }
    T operator++() { return schedule.step(), ++value_; }
    T operator--() { return schedule.step(), --value_; }
    T operator+=(T more) { return schedule.step(), value_ += more; }
    T fetch_add(T more) { return operator+=(more) - more; }

private:
    T value_;
};

}  // namespace stepped_std

namespace stepped {

using qcow2::lane_bytes, qcow2::Rank;

// Each thread its own, two of them: more would only add steps that change nothing.
constexpr unsigned lanes = 2;
unsigned this_lane() { return static_cast<unsigned>(Schedule::me % lanes); }

class CAPABILITY("mutex") Mutex {
public:
    explicit Mutex(Rank) {}
    void lock() ACQUIRE() NO_THREAD_SAFETY_ANALYSIS
    {
        schedule.step();
        while (held_)
            schedule.wait_for(this);
        held_ = true;
    }
    void unlock() RELEASE() NO_THREAD_SAFETY_ANALYSIS
    {
        held_ = false;
        schedule.wake(this);
    }

private:
    bool held_ = false;
};

class SCOPED_CAPABILITY Locked {
public:
    explicit Locked(Mutex &mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
    ~Locked() RELEASE() { mutex_.unlock(); }

private:
    Mutex &mutex_;
};

class Condition {
public:
    template <class Predicate>
    void wait(Mutex &mutex, Predicate predicate) REQUIRES(mutex)
    {
        while (!predicate()) {
            mutex.unlock();
            schedule.wait_for(this);
            mutex.lock();
        }
    }
    void notify_all() { schedule.wake(this); }
};

}  // namespace stepped

#define std stepped_std
#define qcow2 stepped
#include "core/base/gate.cpp"
#undef qcow2
#undef std

namespace {

// What the threads do, and what must be so.
class Scene {
public:
    void pass() { pass_where(stepped::Gate::Door::ajar); }
    void pass_when_open() { pass_where(stepped::Gate::Door::open); }
    void close()
    {
        const stepped::Exclusive exclusive(gate_);
        be_alone();
    }
    // Alone, then with some, then alone again.
    void close_and_set_ajar()
    {
        const stepped::Exclusive exclusive(gate_);
        be_alone();
        {
            ajar_ = true;
            const stepped::Ajar ajar(gate_);
            schedule.pause();
        }
        ajar_ = false;
        be_alone();
    }
    void drain()
    {
        const std::set<unsigned> before = inside_;
        gate_.drain();
        for (const unsigned number : inside_)
            wrong |= before.contains(number);
    }

    bool wrong = false;

private:
    void pass_where(stepped::Gate::Door widest)
    {
        const stepped::Passage passage(gate_, widest);
        const unsigned number = ++passages_;
        wrong |= alone_ || (ajar_ && widest == stepped::Gate::Door::open);
        inside_.insert(number);
        schedule.pause();
        inside_.erase(number);
    }
    void be_alone()
    {
        wrong |= alone_ || !inside_.empty();
        alone_ = true;
        schedule.pause();
        alone_ = false;
    }

    stepped::Gate gate_{qcow2::Rank::gate};
    unsigned passages_ = 0;
    std::set<unsigned> inside_;
    bool alone_ = false;
    bool ajar_ = false;  // or about to be, with nobody inside
};

using Deed = void (Scene::*)();

// Each thread does its deeds one after the other.
void explore(unsigned stops_max, const std::vector<std::vector<Deed>> &threads)
{
    std::unique_ptr<Scene> scene;
    unsigned wrong = 0;
    Schedule::Bodies bodies;
    for (const std::vector<Deed> &deeds : threads)
        bodies.push_back([&scene, &deeds] {
            for (const Deed deed : deeds) {
                (scene.get()->*deed)();
                schedule.pause();
            }
        });
    const auto anew = [&] {
        wrong += scene && scene->wrong;
        scene = std::make_unique<Scene>();
    };
    const unsigned runs = schedule.explore(stops_max, anew, bodies);
    anew();
    BOOST_TEST_MESSAGE(runs << " orders");
    BOOST_TEST(runs > 100u);
    BOOST_TEST(wrong == 0u);
}

constexpr Deed passes = &Scene::pass, passes_when_open = &Scene::pass_when_open,
               closes = &Scene::close, sets_ajar = &Scene::close_and_set_ajar,
               drains = &Scene::drain;

}  // namespace

BOOST_AUTO_TEST_SUITE(gate_schedules)

// Who is about to enter while the gate is closed twice (rule L1).
BOOST_AUTO_TEST_CASE(one_enters_and_one_closes_twice) { explore(2, {{passes}, {closes, closes}}); }

// W3: a drain waits for all who were inside.
BOOST_AUTO_TEST_CASE(one_enters_and_one_drains_twice) { explore(2, {{passes}, {drains, drains}}); }

BOOST_AUTO_TEST_CASE(one_enters_and_one_drains_and_closes)
{
    explore(2, {{passes}, {drains, closes}});
}

// Some pass a gate that is ajar, and others wait until it is open.
BOOST_AUTO_TEST_CASE(one_enters_and_one_sets_ajar) { explore(2, {{passes}, {sets_ajar}}); }

BOOST_AUTO_TEST_CASE(one_waits_until_it_is_open_and_one_sets_ajar)
{
    explore(2, {{passes_when_open}, {sets_ajar}});
}

BOOST_AUTO_TEST_CASE(two_kinds_enter_and_one_sets_ajar)
{
    explore(0, {{passes_when_open}, {passes}, {sets_ajar}});
}

BOOST_AUTO_TEST_CASE(one_sets_ajar_and_one_closes) { explore(2, {{sets_ajar}, {closes}}); }

BOOST_AUTO_TEST_SUITE_END()
