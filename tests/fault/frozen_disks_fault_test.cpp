// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the n-th thing fails while disks are frozen: a write to a scratch, a
// read of one, a read of the live disk, the n-th piece of memory? A change always
// goes down (F2), and each frozen disk is true, or broken, or cannot show just
// what could not be read (F3).

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <functional>
#include <new>
#include <utility>

#include "tests/support/frozen_disk_driver.h"
#include "tests/support/scarce_memory.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(frozen_disks_fault)

namespace {

constexpr std::uint64_t block = block_bytes;
constexpr std::uint64_t size = 40 * block + 512;

// A run of changes while three disks are frozen, one after the other.
struct Run {
    explicit Run(std::function<Result<void>(bool writes)> scratch_fault)
        : fault(std::move(scratch_fault))
    {
        disk.write({0, 30 * block}, 1);
    }

    std::unique_ptr<MemoryScratch> scratch()
    {
        auto made = std::make_unique<MemoryScratch>(size);
        made->on_write = [this] { return fault(true); };
        made->on_read = [this] { return fault(false); };
        return made;
    }
    // There may be no memory for it: then nothing is frozen. What is around it is spared.
    void freeze(const char *name)
    {
        std::uint64_t left = std::exchange(memory_left, 0);
        auto made = scratch();
        Buffer was = disk.inner.content();
        all.reserve(all.size() + 1);
        std::shared_ptr<FrozenDisk> frozen;
        memory_left = left;
        try {
            frozen = disk.freeze(name, std::move(made));
        } catch (const std::bad_alloc &) {
        }
        left = std::exchange(memory_left, 0);
        if (frozen)
            all.emplace_back(std::move(frozen), std::move(was));
        memory_left = left;
    }
    void change_all()
    {
        freeze("first");
        disk.write({512, 3 * block}, 2);
        freeze("second");
        disk.zero({2 * block + 512, 20 * block});
        disk.trim({20 * block, 38 * block});
        disk.write({15 * block, size}, 3);
        freeze("third");
        disk.write({block, 9 * block}, 4);
    }
    // Each is true and right, or it is broken; what could not be read is an error of its own.
    void expect(bool may_lose)
    {
        Buffer bytes(block);
        for (const auto &[frozen, was] : all)
            for (std::uint64_t at = 0; at < size; at += block) {
                const MutableBytes here = sub(MutableBytes(bytes), 0, std::min(block, size - at));
                const Result<void> read = frozen->read(GuestOffset(at), here);
                if (read)
                    BOOST_REQUIRE(
                        std::equal(here.begin(), here.end(), was.begin() + std::ptrdiff_t(at)));
                else
                    BOOST_REQUIRE_MESSAGE(frozen->broken() || may_lose, read.error().what);
            }
        BOOST_TEST(disk.inner.content()[size - 1] == 3);
        BOOST_TEST(disk.inner.content()[block] == 4);
    }
    void end_all()
    {
        while (!all.empty()) {
            disk.frozen.thaw(*all.back().first);
            all.pop_back();
            expect(false);
        }
        BOOST_TEST(!disk.frozen.any());
        BOOST_TEST(MemoryScratch::alive == 0);
    }

    FreezableDisk disk{size, std::chrono::minutes(1)};
    std::function<Result<void>(bool writes)> fault;
    std::vector<std::pair<std::shared_ptr<FrozenDisk>, Buffer>> all;
};

Result<void> nothing_fails(bool) { return {}; }

// The n-th I/O of a scratch fails, and those that follow, too, or not. Until there is none.
template <class Is>
void for_each_scratch_fault(Is is_one, bool forever)
{
    for (unsigned nth = 1, struck = 1; struck != 0; ++nth) {
        BOOST_TEST_INFO_SCOPE("fault " << nth);
        unsigned met = 0;
        struck = 0;
        Run run([&](bool writes) -> Result<void> {
            if (!is_one(writes) || (++met != nth && !(forever && met > nth)))
                return {};
            ++struck;
            return Error(Errc::io, "a bad disk");
        });
        run.change_all();
        const auto broken = [&](const auto &frozen) { return frozen.first->broken().has_value(); };
        const unsigned struck_before = struck;
        const auto broken_ones = std::count_if(run.all.begin(), run.all.end(), broken);
        BOOST_TEST((broken_ones != 0) == (struck_before != 0 && is_one(true)));
        if (!forever)
            BOOST_TEST(broken_ones <= 1);
        // What fails while all is read is an error of that read.
        run.fault = nothing_fails;
        run.expect(false);
        run.end_all();
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(F2_F3_any_write_to_a_scratch)
{
    for (const bool forever : {false, true})
        for_each_scratch_fault([](bool writes) { return writes; }, forever);
}

// A frozen disk that cannot be read now is no other one later.
BOOST_AUTO_TEST_CASE(F3_any_read_of_a_scratch)
{
    for (unsigned nth = 1, struck = 1; struck != 0; ++nth) {
        BOOST_TEST_INFO_SCOPE("fault " << nth);
        unsigned met = 0;
        struck = 0;
        Run run(nothing_fails);
        run.change_all();
        run.fault = [&](bool writes) -> Result<void> {
            if (writes || ++met != nth)
                return {};
            ++struck;
            return Error(Errc::io, "a bad disk");
        };
        run.expect(true);
        for (const auto &[frozen, was] : run.all)
            BOOST_TEST(!frozen->broken());
        run.fault = nothing_fails;
        run.expect(false);
        run.end_all();
    }
}

BOOST_AUTO_TEST_CASE(F3_any_sector_of_the_live_disk)
{
    for (std::uint64_t at = 0; at < size; at += 3 * 512) {
        BOOST_TEST_INFO_SCOPE("sector at " << at);
        Run run(nothing_fails);
        run.disk.inner.unreadable = Range::of(at, 512);
        run.change_all();
        run.disk.inner.unreadable = {};
        run.expect(true);
        for (const auto &[frozen, was] : run.all) {
            BOOST_TEST(!frozen->broken());
            Buffer bytes(block);
            for (std::uint64_t other = 0; other < 40 * block; other += block)
                if (other != at / block * block)
                    BOOST_REQUIRE(frozen->read(GuestOffset(other), bytes));
        }
        while (!run.all.empty()) {
            run.disk.frozen.thaw(*run.all.back().first);
            run.all.pop_back();
        }
        BOOST_TEST(MemoryScratch::alive == 0);
    }
}

// Any step gets no memory for its n-th thing; the disk itself, and the scratch, are spared.
BOOST_AUTO_TEST_CASE(F2_F3_wherever_memory_ends)
{
    bool ran_out = true;
    for (std::uint64_t nth = 1; ran_out; ++nth) {
        BOOST_TEST_INFO_SCOPE("no memory for thing " << nth);
        Run run(nothing_fails);
        memory_left = nth;
        run.change_all();
        ran_out = std::exchange(memory_left, 0) == 0;
        run.expect(false);
        run.end_all();
    }
}

BOOST_AUTO_TEST_SUITE_END()
