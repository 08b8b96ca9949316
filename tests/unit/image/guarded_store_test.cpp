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

using namespace qcow2;
using namespace qcow2::test;

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

BOOST_AUTO_TEST_SUITE(guarded_store)

BOOST_AUTO_TEST_CASE(W5_no_flush_succeeds_while_another_one_fails)
{
    OneIsTold below(4096);
    GuardedStore store(below);
    at_once(below, [&] { return store.flush(); }, [&] { return store.flush(); });
}

BOOST_AUTO_TEST_CASE(O1_nobody_writes_while_the_first_flush_fails)
{
    OneIsTold below(4096);
    GuardedStore store(below);
    const Buffer byte(1, 1);
    at_once(below, [&] { return store.write(0, byte); }, [&] { return store.write(1, byte); });
    BOOST_TEST((below.image().bytes.copy(0, 2) == Buffer(2)));
}

BOOST_AUTO_TEST_SUITE_END()
