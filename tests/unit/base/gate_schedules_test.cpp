// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The gate in every order in which a few threads can take its steps
// (tests/support/schedule.h). Its source is compiled here with atomics and locks that are such
// steps. Where the threads below say pause(), a change costs nothing.

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <vector>

#include "core/base/invariant.h"
#include "core/base/lane.h"
#include "core/base/mutex.h"
#include "tests/support/schedule.h"

namespace {

using qcow2::test::Schedule;

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
