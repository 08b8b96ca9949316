// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// How a file grows, and is cut again, that is proven to be the layer's (growth_proof_test.cpp:
// when it is). What failed leaves the file as it was.

#include "filter/growth.h"

#include <unistd.h>

#include <algorithm>
#include <thread>

#include "core/base/arith.h"
#include "tests/support/random.h"
#include "tests/unit/filter/served_file.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(growth_test)

BOOST_AUTO_TEST_CASE(steps_grow_with_the_file_and_shrink_where_space_is_scarce)
{
    for (const std::uint64_t size : {std::uint64_t(1), 200 * K, 3 * M, 100 * M, 5 * G, 1000 * G}) {
        for (const std::uint64_t more : {std::uint64_t(1), 64 * K, 7 * M, 3 * G}) {
            const auto steps = growth_steps(size, size + more);
            BOOST_REQUIRE(!steps.empty());
            BOOST_CHECK(std::ranges::is_sorted(steps, std::greater()));
            BOOST_CHECK(std::ranges::adjacent_find(steps) == steps.end());
            BOOST_CHECK_GE(steps.back(), size + more);
            BOOST_CHECK_LT(steps.back(), size + more + 64 * K);
            BOOST_CHECK_LE(steps.front(), std::max(size + more, size + G) + 2 * M);
            for (const std::uint64_t step : steps)
                BOOST_CHECK(is_aligned(step, 64 * K));
            BOOST_CHECK(is_aligned(steps.front(), 2 * M));
        }
    }
}

BOOST_AUTO_TEST_CASE(a_proven_file_grows_and_is_cut_again)
{
    Served served(200 * K + 8);  // not padded to anything
    {
        const auto store = served.open();
        BOOST_CHECK(store->can_grow());
        BOOST_CHECK_GE(store->fresh_from(), store->size());
        must(store->grow(300 * K));
        BOOST_CHECK_GE(store->size(), 300 * K);
        BOOST_CHECK_EQUAL(store->size(), served.file.size());
        BOOST_CHECK_EQUAL(store->fresh_from(), 200 * K + 8);
        Buffer added(store->size() - (200 * K + 8), 1);
        must(store->read(200 * K + 8, added));
        BOOST_CHECK(all_zero(added));
        must(store->write(299 * K, Buffer(K, 9)));
        // Within the step nothing is to be done, and past it all again.
        const std::uint64_t size = store->size();
        must(store->grow(size));
        must(store->grow(size + 1));
        BOOST_CHECK_GT(store->size(), size);
        BOOST_CHECK_EQUAL(store->fresh_from(), 200 * K + 8);
        must(store->flush());
        BOOST_CHECK_EQUAL(served.layer.contexts_open, 1);
        must(store->cut(300 * K));
        BOOST_CHECK_GT(served.file.size(), 300 * K);  // a context is still open
    }
    BOOST_CHECK_EQUAL(served.layer.contexts_open, 0);
    BOOST_CHECK_EQUAL(served.file.size(), 300 * K);
    const Buffer content = served.file.content();
    BOOST_CHECK(std::ranges::equal(served.before, sub(Bytes(content), 0, served.before.size())));
    BOOST_CHECK(content[299 * K] == 9 && content[300 * K - 1] == 9);
}

BOOST_AUTO_TEST_CASE(never_cut_below_the_length_that_was_found)
{
    Served served(200 * K);
    {
        const auto store = served.open();
        must(store->cut(64 * K));
    }
    served.check_untouched();
    {
        const auto store = served.open();
        must(store->grow(M));
        must(store->cut(64 * K));
    }
    served.check_untouched();
}

BOOST_AUTO_TEST_CASE(an_end_that_somebody_else_moved_is_not_cut)
{
    Served served(200 * K);
    {
        const auto store = served.open();
        must(store->grow(M));
        must(store->cut(200 * K));
        BOOST_REQUIRE_EQUAL(::truncate(served.file.path().c_str(), 50 * M), 0);
    }
    BOOST_CHECK_EQUAL(served.file.size(), 50 * M);
}

BOOST_AUTO_TEST_CASE(lack_of_space_is_tried_in_smaller_steps_and_may_pass, *one_thread())
{
    Served served(100 * M);
    std::uint64_t space = 101 * M;
    served.layer.before = [&](const char *call, const Range &range) {
        return std::string(call) == "pwrite" && range.end > space ? ENOSPC : 0;
    };
    const auto store = served.open();
    must(store->grow(100 * M + 1));
    BOOST_CHECK_LE(store->size(), space);
    const std::uint64_t size = store->size();
    BOOST_CHECK(store->grow(102 * M).error().code == Errc::no_space);
    BOOST_CHECK_EQUAL(served.file.size(), size);
    BOOST_CHECK(store->can_grow());
    space = 200 * M;
    must(store->grow(102 * M));
}

// Whatever call fails on the way: all is as before, the store still works, and
// when the trouble has passed it grows. Only the flush at the end is final.
BOOST_AUTO_TEST_CASE(any_failure_is_undone)
{
    for (const bool multi_conn : {true, false}) {
        for (int failing = 1;; ++failing) {
            Served served(200 * K);
            served.layer.multi_conn = multi_conn;
            auto store = served.open();
            int calls = 0;
            served.layer.before = [&](const char *call, const Range &) {
                return std::string(call) != "open" && ++calls == failing ? EIO : 0;
            };
            const Result<void> grown = store->grow(M);
            served.layer.before = nullptr;
            if (grown || grown.error().code == Errc::lost) {
                BOOST_CHECK_GT(failing, 4);
                BOOST_CHECK_EQUAL(store->size(), served.local->length().value());
                // Without multi-conn it was the flush of the old context.
                BOOST_CHECK_EQUAL(grown.has_value(), multi_conn);
                BOOST_CHECK_EQUAL(store->flush().has_value(), multi_conn);
                break;
            }
            BOOST_CHECK(grown.error().code == Errc::io);
            BOOST_CHECK(store->can_grow());
            BOOST_CHECK_EQUAL(store->size(), 200 * K);
            Buffer bytes(200 * K);
            must(store->read(0, bytes));
            BOOST_CHECK_EQUAL(served.layer.contexts_open, 1);
            served.check_untouched();
            said();
            must(store->grow(M));
            BOOST_CHECK_EQUAL(store->size(), served.local->length().value());
        }
    }
}

// What the kernel has to tell a descriptor goes with it.
BOOST_AUTO_TEST_CASE(an_old_context_is_flushed_before_it_is_closed)
{
    Served served(200 * K);
    const auto store = served.open();
    must(store->grow(M));
    BOOST_CHECK_EQUAL(served.layer.flushes_done, 0);
    BOOST_CHECK_EQUAL(served.layer.contexts_open, 2);
    must(store->flush());
    BOOST_CHECK_EQUAL(served.layer.flushes_done, 2);
    BOOST_CHECK_EQUAL(served.layer.contexts_open, 1);
    must(store->flush());
    BOOST_CHECK_EQUAL(served.layer.flushes_done, 3);

    must(store->grow(store->size() + 1));
    unsigned flushes = 0;
    served.layer.before = [&](const char *call, const Range &) {
        return std::string(call) == "flush" && ++flushes == 1 ? EIO : 0;
    };
    BOOST_CHECK(!store->flush());
    BOOST_CHECK(!store->flush());
    BOOST_CHECK_EQUAL(flushes, 1);
}

// Not one descriptor for each step until somebody flushes.
BOOST_AUTO_TEST_CASE(old_contexts_are_few)
{
    for (const bool flushes : {true, false}) {
        Served served(200 * K);
        served.layer.flushes = flushes;
        const auto store = served.open();
        for (int step = 0; step < 40; ++step) {
            must(store->grow(store->size() + 1));
            BOOST_REQUIRE_LT(served.layer.contexts_open, 20);
        }
        BOOST_CHECK_EQUAL(served.layer.flushes_done > 16, flushes);
    }
}

// Without multi-conn a flush of the new context would not cover what went through
// the old.
BOOST_AUTO_TEST_CASE(without_multi_conn_the_old_context_is_flushed_at_once)
{
    for (const bool fails : {false, true}) {
        Served served(200 * K);
        served.layer.multi_conn = false;
        const auto store = served.open();
        served.layer.before = [&](const char *call, const Range &) {
            return fails && std::string(call) == "flush" && served.layer.contexts_open == 2 ? EIO
                                                                                            : 0;
        };
        const Result<void> grown = store->grow(M);
        BOOST_REQUIRE_EQUAL(grown.has_value(), !fails);
        BOOST_CHECK(grown || grown.error().code == Errc::lost);
        BOOST_CHECK_EQUAL(served.layer.contexts_open, 1);
        BOOST_CHECK_EQUAL(store->flush().has_value(), !fails);
    }
}

// The thread sanitizer looks at this one.
BOOST_AUTO_TEST_CASE(many_read_write_flush_and_grow_at_once)
{
    for (const bool multi_conn : {true, false}) {
        for (const bool serialised : {true, false}) {
            Served served(200 * K);
            served.layer.multi_conn = multi_conn;
            auto store = must(
                NextStore::open(served.layer.backend(), false, serialised, served.local.get()));
            store->allow_growth(*served.local);
            std::vector<std::thread> threads;
            for (std::uint64_t i = 0; i < 4; ++i) {
                threads.emplace_back([&store, i] {
                    for (std::uint64_t n = 0; n < 100; ++n) {
                        const std::uint64_t at = (n * 4 + i) * 64 * K + 200 * K;
                        Buffer bytes(64 * K, static_cast<std::uint8_t>(i + 1)), found(64 * K);
                        if (!store->grow(at + 64 * K) || store->size() < at + 64 * K ||
                            !store->write(at, bytes) || !store->read(at, found) || found != bytes ||
                            !(n % 16 ? Result<void>() : store->flush()))
                            std::abort();
                    }
                });
            }
            for (std::thread &thread : threads)
                thread.join();
            BOOST_CHECK_EQUAL(served.layer.contexts_open, 1);
            must(store->cut(400 * 64 * K + 200 * K));
            store.reset();
            BOOST_CHECK_EQUAL(served.file.size(), 400 * 64 * K + 200 * K);
            const Buffer content = served.file.content();
            for (std::uint64_t n = 0; n < 400; ++n)
                BOOST_REQUIRE_EQUAL(content[n * 64 * K + 200 * K + 12345], n % 4 + 1);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
