// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/fault_store.h"

#include <boost/test/unit_test.hpp>

#include "tests/support/memory_store.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(fault_store)

BOOST_AUTO_TEST_CASE(the_nth_fails_once)
{
    MemoryStore memory(4096);
    FaultPlan plan({.kinds = Fault::writes, .nth = 2, .errc = Errc::no_space});
    FaultStore store(memory, plan);
    const Buffer byte(1, 1);
    BOOST_TEST(bool(store.write(0, byte)));
    const auto second = store.write(1, byte);
    BOOST_TEST(!second);
    BOOST_TEST((second.error().code == Errc::no_space));
    BOOST_TEST(bool(store.write(2, byte)));
    BOOST_TEST(bool(store.flush()));
    BOOST_TEST(plan.struck() == 1u);
    BOOST_TEST(store.count(Fault::writes) == 3u);
    BOOST_TEST((memory.image().bytes.copy(0, 3) == Buffer{1, 0, 1}));
}

BOOST_AUTO_TEST_CASE(all_fail_from_the_nth_on_until_it_is_disarmed)
{
    MemoryStore memory(4096);
    FaultPlan plan({.kinds = Fault::changes, .nth = 1, .forever = true});
    FaultStore store(memory, plan);
    const Buffer byte(1, 1);
    BOOST_TEST(!store.write(0, byte));
    BOOST_TEST(!store.flush());
    BOOST_TEST(!store.grow(9000));
    BOOST_TEST(!store.zero(0, 1, true));
    Buffer read(1);
    BOOST_TEST(bool(store.read(0, read)));
    plan.disarm();
    BOOST_TEST(bool(store.write(0, byte)));
}

BOOST_AUTO_TEST_CASE(a_fault_that_lands_does_what_it_denies)
{
    MemoryStore memory(4096);
    FaultPlan plan({.kinds = Fault::writes, .lands = true});
    FaultStore store(memory, plan);
    BOOST_TEST(!store.write(0, Buffer(1, 1)));
    BOOST_TEST((memory.image().bytes.copy(0, 1) == Buffer{1}));
}

BOOST_AUTO_TEST_CASE(for_each_fault_meets_each_once_and_ends)
{
    int runs = 0, failures = 0;
    const std::uint64_t struck = for_each_fault(Fault{}, [&](FaultPlan &plan) {
        MemoryStore memory(4096);
        FaultStore store(memory, plan);
        ++runs;
        failures += !store.write(0, Buffer(1));
        failures += !store.flush();
        failures += !store.write_durable(0, Buffer(1));
    });
    // Of write_durable both parts.
    BOOST_TEST(struck == 4u);
    BOOST_TEST(failures == 4);
    BOOST_TEST(runs == 5);
}

BOOST_AUTO_TEST_SUITE_END()
