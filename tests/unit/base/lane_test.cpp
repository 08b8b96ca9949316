// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/lane.h"

#include <boost/test/unit_test.hpp>

#include <optional>
#include <thread>
#include <vector>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(lane)

BOOST_AUTO_TEST_CASE(there_is_one_for_every_thread) { BOOST_TEST(this_lane() < lanes); }

BOOST_AUTO_TEST_CASE(activity_counts_what_began_and_what_is_under_way)
{
    Activity activity;
    BOOST_TEST(activity.begun() == 0u);
    BOOST_TEST(!activity.any());
    std::optional<Activity::Scope> first(activity), second(activity);
    BOOST_TEST(activity.begun() == 2u);
    first.reset();
    BOOST_TEST(activity.any());
    second.reset();
    BOOST_TEST(!activity.any());
    BOOST_TEST(activity.begun() == 2u);
}

// What ends on another processor than it began on is still one.
BOOST_AUTO_TEST_CASE(activity_may_end_in_another_thread)
{
    Activity activity;
    for (int i = 0; i < 20; ++i) {
        std::optional<Activity::Scope> scope(activity);
        std::thread([&] { scope.reset(); }).join();
        BOOST_TEST(!activity.any());
    }
}

// One is under way all the time, so nobody may see that there is none: begun by
// the next before it is ended by the one before.
BOOST_AUTO_TEST_CASE(activity_is_never_taken_for_rest)
{
    Activity activity;
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> runs{0}, rests{0};
    const Activity::Scope always(activity);
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            while (!stop) {
                const Activity::Scope scope(activity);
                ++runs;
            }
        });
    for (int i = 0; i < 20000 || runs < 1000; ++i)
        rests += !activity.any();
    stop = true;
    for (std::thread &thread : threads)
        thread.join();
    BOOST_TEST(rests == 0u);
    BOOST_TEST(activity.begun() == runs + 1);
}

BOOST_AUTO_TEST_SUITE_END()
