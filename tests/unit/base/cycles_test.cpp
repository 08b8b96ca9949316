// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/cycles.h"

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <cstdlib>
#include <list>
#include <new>
#include <thread>

#include "tests/support/waiting_thread.h"

using namespace qcow2;
using test::WaitingThread;

BOOST_AUTO_TEST_SUITE(cycles)

BOOST_AUTO_TEST_CASE(each_one_alone_does_his_own_work)
{
    Cycles cycles(Rank::store);
    int runs = 0;
    for (int i = 0; i < 3; ++i)
        BOOST_TEST(bool(cycles.run([&] { return ++runs, Result<void>(); })));
    BOOST_TEST(runs == 3);
    BOOST_TEST(!cycles.run([]() -> Result<void> { return Error(Errc::io, "not now"); }));
    BOOST_TEST(bool(cycles.run([] { return Result<void>(); })));
}

// Those who come while one is under way share the next.
BOOST_AUTO_TEST_CASE(who_waits_shares_the_next)
{
    Cycles cycles(Rank::store);
    std::atomic<bool> go_on = false;
    std::atomic<int> runs = 0, at_once = 0, failed = 0;
    const auto work = [&]() -> Result<void> {
        if (++at_once != 1)
            std::abort();
        while (!go_on)
            std::this_thread::yield();
        --at_once;
        if (++runs == 1)
            return {};
        return Error(Errc::io, "the second");
    };
    std::thread first([&] { failed += !cycles.run(work); });
    while (at_once == 0)
        std::this_thread::yield();
    std::list<WaitingThread> others;
    for (int i = 0; i < 4; ++i)
        others.emplace_back([&] { failed += !cycles.run(work); }).wait_until_asleep();
    go_on = true;
    first.join();
    for (WaitingThread &other : others)
        other.join();
    BOOST_TEST(runs == 2);
    BOOST_TEST(failed == 4);
}

// It ends the cycle all the same, and who has waited goes on.
BOOST_AUTO_TEST_CASE(an_exception_goes_to_the_one_who_works)
{
    Cycles cycles(Rank::store);
    std::atomic<bool> at_work = false, go_on = false;
    std::atomic<int> thrown = 0, waited = 0;
    std::thread worker([&] {
        try {
            const Result<void> none = cycles.run([&]() -> Result<void> {
                at_work = true;
                while (!go_on)
                    std::this_thread::yield();
                throw std::bad_alloc();
            });
        } catch (const std::bad_alloc &) {
            ++thrown;
        }
    });
    while (!at_work)
        std::this_thread::yield();
    WaitingThread other([&] { waited += bool(cycles.run([] { return Result<void>(); })); });
    other.wait_until_asleep();
    go_on = true;
    worker.join();
    other.join();
    BOOST_TEST(thrown == 1);
    BOOST_TEST(waited == 1);
    BOOST_TEST(bool(cycles.run([] { return Result<void>(); })));
}

BOOST_AUTO_TEST_SUITE_END()
