// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/gate.h"

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "tests/support/waiting_thread.h"

using namespace qcow2;
using test::WaitingThread;

BOOST_AUTO_TEST_SUITE(gate)

namespace {

void a_little_while() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

void wait_for(const std::atomic<bool> &flag)
{
    while (!flag)
        std::this_thread::yield();
}

}  // namespace

BOOST_AUTO_TEST_CASE(many_are_inside_at_once)
{
    Gate gate(Rank::gate);
    const Passage first(gate);
    const Passage second(gate);
    std::thread([&] { const Passage third(gate); }).join();
}

BOOST_AUTO_TEST_CASE(an_empty_gate_drains_and_closes_at_once)
{
    Gate gate(Rank::gate);
    for (int i = 0; i < 5; ++i) {
        gate.drain();
        const Exclusive all_mine(gate);
    }
    const Passage after(gate);
}

BOOST_AUTO_TEST_CASE(drain_waits_for_those_inside_and_not_for_newcomers)
{
    Gate gate(Rank::gate);
    auto early = std::make_unique<Passage>(gate);
    std::atomic<bool> drained = false;
    std::thread drainer([&] {
        gate.drain();
        drained = true;
    });
    a_little_while();
    BOOST_TEST(!drained);
    // Whoever comes now passes, and does not keep the drain waiting.
    const Passage late(gate);
    early.reset();
    drainer.join();
    BOOST_TEST(drained);
}

BOOST_AUTO_TEST_CASE(close_keeps_newcomers_waiting)
{
    Gate gate(Rank::gate);
    std::atomic<bool> passed = false;
    std::thread newcomer;
    {
        const Exclusive all_mine(gate);
        newcomer = std::thread([&] {
            const Passage passage(gate);
            passed = true;
        });
        a_little_while();
        BOOST_TEST(!passed);
    }
    newcomer.join();
    BOOST_TEST(passed);
}

BOOST_AUTO_TEST_CASE(who_was_kept_waiting_passes_before_it_is_closed_again)
{
    Gate gate(Rank::gate);
    for (int i = 0; i < 10; ++i) {
        std::atomic<bool> passed = false;
        gate.close();
        WaitingThread newcomer([&] {
            const Passage passage(gate);
            passed = true;
        });
        newcomer.wait_until_asleep();
        gate.open();
        gate.close();
        BOOST_TEST(passed);
        gate.open();
        newcomer.join();
    }
}

// Of two that were kept waiting the one passes when it is ajar, the other when it is open.
BOOST_AUTO_TEST_CASE(some_pass_a_gate_that_is_ajar)
{
    Gate gate(Rank::gate);
    std::atomic<bool> passed_ajar = false, passed_open = false;
    gate.close();
    WaitingThread one([&] {
        const Passage passage(gate);
        passed_ajar = true;
    });
    WaitingThread other([&] {
        const Passage passage(gate, Gate::Door::open);
        passed_open = true;
    });
    one.wait_until_asleep();
    other.wait_until_asleep();
    {
        const Ajar ajar(gate);
        const Passage passage(gate);
        one.join();
        BOOST_TEST(passed_ajar);
    }
    BOOST_TEST(!passed_open);
    gate.open();
    gate.close();
    BOOST_TEST(passed_open);
    gate.open();
    other.join();
}

// It is still his who closed it.
BOOST_AUTO_TEST_CASE(nobody_else_closes_a_gate_that_is_ajar)
{
    Gate gate(Rank::gate);
    std::atomic<bool> closed = false;
    auto mine = std::make_unique<Exclusive>(gate);
    auto ajar = std::make_unique<Ajar>(gate);
    WaitingThread closer([&] {
        const Exclusive theirs(gate);
        closed = true;
    });
    closer.wait_until_asleep();
    ajar.reset();
    BOOST_TEST(!closed);
    mine.reset();
    closer.join();
    BOOST_TEST(closed);
}

BOOST_AUTO_TEST_CASE(close_waits_for_those_inside)
{
    Gate gate(Rank::gate);
    auto early = std::make_unique<Passage>(gate);
    std::atomic<bool> closed = false;
    std::thread closer([&] {
        const Exclusive all_mine(gate);
        closed = true;
    });
    a_little_while();
    BOOST_TEST(!closed);
    early.reset();
    closer.join();
    BOOST_TEST(closed);
}

// Those inside read what only somebody with the gate to himself may change.
BOOST_AUTO_TEST_CASE(nobody_is_inside_while_it_is_closed)
{
    Gate gate(Rank::gate);
    std::uint64_t plain = 0;  // deliberately not atomic: TSan is the judge
    std::atomic<bool> stop = false;
    std::atomic<std::uint64_t> passages = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            std::uint64_t last = 0;
            while (!stop) {
                const Passage passage(gate);
                const std::uint64_t seen = plain;
                if (seen < last)
                    std::abort();
                last = seen;
                ++passages;
            }
        });
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            for (int round = 0; round < 300; ++round) {
                const Exclusive all_mine(gate);
                ++plain;
            }
        });
    threads[3].join();
    threads[4].join();
    stop = true;
    for (int i = 0; i < 3; ++i)
        threads[i].join();
    BOOST_TEST(plain == 600u);
    BOOST_TEST_MESSAGE(passages << " passages");
}

// W3: what was taken out of sight before a drain is seen by nobody after it.
BOOST_AUTO_TEST_CASE(W3_after_a_drain_nobody_has_the_old_thing)
{
    struct Thing {
        std::atomic<bool> alive = true;
    };
    Gate gate(Rank::readers);
    std::atomic<Thing *> current = new Thing;
    std::atomic<bool> stop = false;
    std::atomic<std::uint64_t> ghosts = 0;
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i)
        readers.emplace_back([&] {
            while (!stop) {
                const Passage passage(gate);
                const Thing *thing = current;
                for (int look = 0; look < 10; ++look)
                    if (!thing->alive)
                        ++ghosts;
            }
        });
    std::vector<std::thread> drainers;
    for (int i = 0; i < 2; ++i)
        drainers.emplace_back([&] {
            for (int round = 0; round < 500; ++round) {
                Thing *old = current.exchange(new Thing);
                gate.drain();
                old->alive = false;
                delete old;
            }
        });
    for (std::thread &t : drainers)
        t.join();
    stop = true;
    for (std::thread &t : readers)
        t.join();
    BOOST_TEST(ghosts == 0u);
    delete current.load();
}

BOOST_AUTO_TEST_CASE(drains_and_closes_of_many_threads_all_end)
{
    Gate gate(Rank::gate);
    std::vector<std::thread> threads;
    std::atomic<int> inside_alone = 0;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&, i] {
            for (int round = 0; round < 200; ++round) {
                if ((round + i) % 3 == 0) {
                    gate.drain();
                } else if ((round + i) % 3 == 1) {
                    const Exclusive all_mine(gate);
                    if (++inside_alone != 1)
                        std::abort();
                    --inside_alone;
                } else {
                    const Passage passage(gate);
                    if (inside_alone != 0)
                        std::abort();
                }
            }
        });
    for (std::thread &t : threads)
        t.join();
    std::atomic<bool> done = false;
    std::thread last([&] {
        const Passage passage(gate);
        done = true;
    });
    wait_for(done);
    last.join();
}

BOOST_AUTO_TEST_SUITE_END()
