// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/mutex.h"

#include <boost/test/unit_test.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <thread>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(mutex)

namespace {

// Whether `body` ends the process by abort(), as INVARIANT does.
template <class Body>
bool aborts(Body body)
{
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        std::signal(SIGABRT, SIG_DFL);
        body();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// One lock inside another; whether that is right is what is tested here.
void nest(Rank outer_rank, Rank inner_rank)
{
    Mutex outer(outer_rank);
    Mutex inner(inner_rank);
    Locked hold_outer(outer);
    Locked hold_inner(inner);
}

}  // namespace

BOOST_AUTO_TEST_CASE(L_ranks_may_rise)
{
    BOOST_TEST(!aborts([] { nest(Rank::served_image, Rank::gate); }));
    BOOST_TEST(!aborts([] { nest(Rank::gate, Rank::store); }));
    BOOST_TEST(!aborts([] { nest(Rank::allocator, Rank::refcounts); }));
}

BOOST_AUTO_TEST_CASE(L_ranks_must_not_fall_or_stay)
{
#ifdef QCOW2_CHECK_LOCKS
    BOOST_TEST(aborts([] { nest(Rank::gate, Rank::served_image); }));
    BOOST_TEST(aborts([] { nest(Rank::store, Rank::gate); }));
    BOOST_TEST(aborts([] { nest(Rank::mapping, Rank::mapping); }));
#else
    BOOST_TEST_MESSAGE("not compiled with QCOW2_CHECK_LOCKS");
#endif
}

BOOST_AUTO_TEST_CASE(a_lock_that_was_given_back_does_not_count)
{
    BOOST_TEST(!aborts([] {
        nest(Rank::gate, Rank::store);
        nest(Rank::served_image, Rank::gate);
    }));
}

BOOST_AUTO_TEST_CASE(a_condition_lets_others_in_while_it_waits)
{
    Mutex mutex(Rank::store);
    Condition changed;
    int turn = 0;
    std::thread other([&] {
        Locked lock(mutex);
        changed.wait(mutex, [&] { return turn == 1; });
        turn = 2;
        changed.notify_all();
    });
    {
        Locked lock(mutex);
        turn = 1;
        changed.notify_all();
        changed.wait(mutex, [&] { return turn == 2; });
    }
    other.join();
    BOOST_TEST(turn == 2);
}

BOOST_AUTO_TEST_SUITE_END()
