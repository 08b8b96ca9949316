// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/range_lock.h"

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "tests/support/waiting_thread.h"

using namespace qcow2;
using test::WaitingThread;

BOOST_AUTO_TEST_SUITE(range_lock)

namespace {

// A thread that takes a range, says so, and holds it until it is told.
class Holder {
public:
    Holder(RangeLock &lock, Range range)
        : thread_([this, &lock, range] {
              RangeLock::Guard guard(lock, range);
              holds_ = true;
              while (!let_go_)
                  std::this_thread::yield();
          })
    {
    }
    ~Holder() { finish(); }

    bool holds() const { return holds_; }
    void wait_until_it_waits() const { thread_.wait_until_asleep(); }

    void wait_until_it_holds() const
    {
        while (!holds_)
            std::this_thread::yield();
    }

    void finish()
    {
        let_go_ = true;
        if (thread_.joinable())
            thread_.join();
    }

private:
    std::atomic<bool> holds_{false};
    std::atomic<bool> let_go_{false};
    WaitingThread thread_;
};

// Long enough for a thread that does not wait to have gone on.
void give_time() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

}  // namespace

BOOST_AUTO_TEST_CASE(disjoint_and_adjacent_ranges_do_not_meet)
{
    RangeLock lock(Rank::ranges);
    Holder a(lock, {10, 20});
    a.wait_until_it_holds();
    Holder b(lock, {20, 30});
    Holder c(lock, {0, 10});
    b.wait_until_it_holds();
    c.wait_until_it_holds();
    BOOST_TEST(a.holds());
}

BOOST_AUTO_TEST_CASE(an_overlapping_range_waits_for_the_release)
{
    RangeLock lock(Rank::ranges);
    Holder a(lock, {10, 20});
    a.wait_until_it_holds();
    Holder b(lock, {19, 40});
    give_time();
    BOOST_TEST(!b.holds());
    a.finish();
    b.wait_until_it_holds();
}

BOOST_AUTO_TEST_CASE(an_empty_range_never_waits)
{
    RangeLock lock(Rank::tables);
    RangeLock::Guard all(lock, {0, ~std::uint64_t(0)});
    Holder empty(lock, {5, 5});
    empty.wait_until_it_holds();
    Holder another(lock, {});
    another.wait_until_it_holds();
    BOOST_TEST(empty.holds());
}

BOOST_AUTO_TEST_CASE(who_came_first_goes_first)
{
    RangeLock lock(Rank::ranges);
    Holder a(lock, {0, 10});
    a.wait_until_it_holds();
    Holder wide(lock, {0, 100});
    wide.wait_until_it_waits();
    // Overlaps nothing that is held, but one that waits already: otherwise a
    // stream of these would keep the wide one out for ever.
    Holder late(lock, {50, 60});
    give_time();
    BOOST_TEST(!wide.holds());
    BOOST_TEST(!late.holds());
    a.finish();
    wide.wait_until_it_holds();
    give_time();
    BOOST_TEST(!late.holds());
    wide.finish();
    late.wait_until_it_holds();
}

BOOST_AUTO_TEST_CASE(one_release_lets_all_go_that_do_not_overlap_each_other)
{
    RangeLock lock(Rank::ranges);
    Holder a(lock, {0, 100});
    a.wait_until_it_holds();
    Holder b(lock, {0, 50});
    Holder c(lock, {50, 100});
    give_time();
    BOOST_TEST(!b.holds());
    BOOST_TEST(!c.holds());
    a.finish();
    b.wait_until_it_holds();
    c.wait_until_it_holds();
    BOOST_TEST(b.holds());
}

// Many threads, each adds to plain counters inside its range: a lost addition
// (or TSan) shows two holders at once.
BOOST_AUTO_TEST_CASE(no_two_overlapping_ranges_are_held_at_once)
{
    constexpr std::uint64_t units = 16;
    constexpr int threads = 6, rounds = 2000;
    RangeLock lock(Rank::ranges);
    std::vector<std::uint64_t> counters(units);
    std::atomic<std::uint64_t> expected{0};
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t)
        workers.emplace_back([&, t] {
            std::mt19937 random(t);
            for (int i = 0; i < rounds; ++i) {
                const std::uint64_t begin = random() % units;
                const Range range = Range::of(begin, random() % (units - begin + 1));
                RangeLock::Guard guard(lock, range);
                for (std::uint64_t u = range.begin; u < range.end; ++u) {
                    const std::uint64_t seen = *const_cast<volatile std::uint64_t *>(&counters[u]);
                    if (i % 64 == 0)
                        std::this_thread::yield();
                    counters[u] = seen + 1;
                }
                expected += range.length();
            }
        });
    for (auto &worker : workers)
        worker.join();
    std::uint64_t sum = 0;
    for (std::uint64_t counter : counters)
        sum += counter;
    BOOST_TEST(sum == expected.load());
    BOOST_TEST(sum > 0u);
}

BOOST_AUTO_TEST_SUITE_END()
