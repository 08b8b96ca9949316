// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/guarded_store.h"

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/support/fault_store.h"
#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/recording_store.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(guarded_store)

namespace {

// A store that tells one of those who flush at the same time that bytes are
// lost, as the kernel does: the first, who hears of it after the others.
class OneIsTold final : public MemoryStore {
public:
    using MemoryStore::MemoryStore;
    Result<void> flush() override
    {
        if (++flushes != 1)
            return MemoryStore::flush();
        for (int i = 0; i < 100 && !other_has_returned; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        return Error(Errc::io, "bytes are lost");
    }
    std::atomic<unsigned> flushes = 0;
    std::atomic<bool> other_has_returned = false;
};

// The first thread flushes, by whatever way; then the other one does.
template <class First, class Other>
void at_once(OneIsTold &below, First first, Other other)
{
    bool first_succeeded = true, other_succeeded = true;
    std::thread thread([&] { first_succeeded = first().has_value(); });
    while (below.flushes == 0)
        std::this_thread::yield();
    other_succeeded = other().has_value();
    below.other_has_returned = true;
    thread.join();
    BOOST_TEST(!first_succeeded);
    BOOST_TEST(!other_succeeded);
}

}  // namespace

BOOST_AUTO_TEST_CASE(W5_no_flush_succeeds_while_another_one_fails)
{
    OneIsTold below(4096);
    GuardedStore store(below);
    at_once(
        below, [&] { return store.flush(); }, [&] { return store.flush(); });
}

BOOST_AUTO_TEST_CASE(O1_nobody_writes_while_the_first_flush_fails)
{
    OneIsTold below(4096);
    GuardedStore store(below);
    const Buffer byte(1, 1);
    at_once(
        below, [&] { return store.write(0, byte); }, [&] { return store.write(1, byte); });
    BOOST_TEST((below.image().bytes.copy(0, 2) == Buffer(2)));
}

// Only a flush or a barrier that fails is final, wherever it is done.
BOOST_AUTO_TEST_CASE(W5_a_small_write_that_fails_may_be_tried_again)
{
    for (const bool alone : {true, false}) {
        MemoryStore memory(4096, {.durable_alone = alone});
        FaultPlan plan;
        FaultStore below(memory, plan);
        GuardedStore store(below);
        must(store.flush());
        const Buffer byte(1, 1);
        plan.arm({.kinds = Fault::writes});
        BOOST_TEST(!store.write_durable(0, byte));
        must(store.state());
        must(store.write_durable(0, byte));
        plan.arm({.kinds = Fault::flushes});
        const Result<void> lost = store.write_durable(1, byte);
        BOOST_REQUIRE(!lost);
        BOOST_TEST((lost.error().code == Errc::io));
        BOOST_TEST(!store.state());
        BOOST_TEST(!store.write(2, byte));
    }
}

BOOST_AUTO_TEST_CASE(W5_growth_that_loses_bytes_is_final)
{
    class Grows final : public MemoryStore {
    public:
        using MemoryStore::MemoryStore;
        Result<void> grow(std::uint64_t) override { return Error(how, "not today"); }
        Errc how = Errc::io;
    };
    Grows below(4000);
    GuardedStore store(below, 4096);
    BOOST_TEST(!store.grow(8192));
    must(store.state());
    below.how = Errc::lost;
    BOOST_TEST(!store.write(4000, Buffer(1)));  // in the last cluster, which is padded
    BOOST_TEST(!store.state());
}

// The end is at 77 in its sector, and the file has grown.
struct GrownFromInsideASector {
    MemoryStore memory{8192 + 77};
    RecordingStore below{memory};
    GuardedStore store{below, 4096};
    GrownFromInsideASector()
    {
        must(store.flush());
        below.forget();
    }
    // The kinds of what went down since.
    std::string asked()
    {
        std::string letters;
        for (const Operation &operation : below.recording().operations)
            letters += to_string(operation)[0];
        below.forget();
        return letters;
    }
};

BOOST_AUTO_TEST_CASE(W8_what_crosses_the_old_end_waits_for_a_flush_once)
{
    for (const bool durable : {false, true}) {
        GrownFromInsideASector file;
        const auto write = [&](std::uint64_t offset, std::uint64_t length) {
            const Buffer bytes(length, 1);
            must(durable ? file.store.write_durable(offset, bytes)
                         : file.store.write(offset, bytes));
        };
        write(8192, 512);  // pads it itself
        BOOST_TEST(file.asked() == (durable ? "gfwf" : "gfw"));
        write(8192, 512);
        BOOST_TEST(file.asked() == (durable ? "wf" : "w"));
        must(file.store.grow(1 << 20));
        write(8192 + 76, 2);
        BOOST_TEST(file.asked() == (durable ? "gwf" : "gw"));
    }
}

BOOST_AUTO_TEST_CASE(W8_growth_and_what_does_not_cross_the_old_end_wait_for_nothing)
{
    GrownFromInsideASector file;
    must(file.store.grow(1 << 20));
    must(file.store.write(8192, Buffer(77, 1)));
    must(file.store.write(8192 + 77, Buffer(512, 1)));
    must(file.store.zero(8192, 4096, true));
    must(file.store.grow(2 << 20));
    must(file.store.write(8192 + 4096, Buffer(512, 1)));
    BOOST_TEST(file.asked() == "gwwzgw");
    must(file.store.write(0, Buffer(3 * 4096, 1)));  // another thread has grown it
    BOOST_TEST(file.asked() == "fw");
}

// A data file ends where its disk does: of two such ends the first is left behind.
BOOST_AUTO_TEST_CASE(W8_only_one_end_inside_a_sector_is_not_durable)
{
    GrownFromInsideASector file;
    must(file.store.grow(8192 + 100));
    BOOST_TEST(file.asked() == "g");
    must(file.store.grow(8192 + 200));
    BOOST_TEST(file.asked() == "fg");
    must(file.store.write(8192 + 50, Buffer(30, 1)));
    BOOST_TEST(file.asked() == "w");
    must(file.store.write(8192 + 50, Buffer(60, 1)));
    BOOST_TEST(file.asked() == "fw");
}

BOOST_AUTO_TEST_CASE(W8_nothing_crosses_the_old_end_if_that_flush_fails)
{
    MemoryStore memory(4096 + 77);
    FaultPlan plan;
    FaultStore below(memory, plan);
    GuardedStore store(below, 4096);
    must(store.grow(8192));
    plan.arm({.kinds = Fault::flushes});
    BOOST_TEST(!store.write(4096, Buffer(512, 1)));
    BOOST_TEST(!store.state());
    BOOST_TEST((memory.image().bytes.copy(4096, 512) == Buffer(512)));
}

BOOST_AUTO_TEST_SUITE_END()
