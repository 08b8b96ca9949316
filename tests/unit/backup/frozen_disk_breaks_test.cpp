// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Frozen disks that cannot be kept, or not in time, one case after the other (rules F2, F3).

#include "tests/unit/backup/frozen_disk.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(frozen_disk)

// A zero over much that is needed alternates with its copies, and cuts no cluster.
BOOST_AUTO_TEST_CASE(F2_a_long_zero_goes_in_parts, *one_thread())
{
    constexpr std::uint64_t M = 1 << 20;
    FreezableDisk disk(24 * M);
    disk.write({0, 16 * M}, 1);
    const Buffer was = disk.inner.content();
    MemoryScratch *scratch = nullptr;
    const auto frozen = disk.freeze("mon", scratch);
    FrozenDisks::Waited waited;
    const Range all{M + 512, 24 * M};
    std::uint64_t parts = 0;
    for (Range left = all; !left.empty(); ++parts) {
        const std::uint64_t before = scratch->bytes_used();
        const std::uint64_t end = disk.frozen.before_part(disk.inner, left, waited);
        BOOST_TEST((end == all.end || end % FrozenDisks::copy_bytes_max == 0));
        BOOST_TEST(scratch->bytes_used() - before <= 2 * FrozenDisks::copy_bytes_max);
        disk.inner.zero({left.begin, end});
        left.begin = end;
    }
    BOOST_TEST(parts >= 5u);
    BOOST_TEST((read_all(*frozen) == was));
    // What is kept, or nobody needs, goes in one.
    BOOST_TEST(disk.frozen.before_part(disk.inner, all, waited) == all.end);
}

BOOST_AUTO_TEST_CASE(F2_what_is_kept_already_costs_nothing)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    MemoryScratch *scratch = nullptr;
    auto frozen = disk.freeze("mon", scratch);
    disk.write({0, 8 * block}, 2);
    const unsigned reads = disk.inner.reads, calls = disk.inner.status_calls;
    disk.write({5, 8 * block - 5}, 3);
    BOOST_TEST(disk.inner.reads == reads);
    BOOST_TEST(disk.inner.status_calls == calls);
    BOOST_TEST(scratch->writes == 1u);
    disk.frozen.thaw(*frozen);
    disk.write({0, 8 * block}, 4);
    BOOST_TEST(disk.inner.status_calls == calls);
}

BOOST_AUTO_TEST_CASE(F2_F3_a_scratch_that_is_full_breaks_its_backup_and_no_other)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    const auto older = disk.freeze("older");
    const auto newer = disk.freeze("newer", std::make_unique<MemoryScratch>(8 * block, 2 * block));
    disk.write({0, 2 * block}, 2);
    BOOST_TEST(!newer->broken());
    disk.write({0, 4 * block}, 3);
    BOOST_TEST(disk.inner.content()[3 * block] == 3);
    BOOST_TEST(disk.broken == 1u);
    const std::string reason = "what is overwritten could not be kept: the scratch is full";
    BOOST_TEST(newer->broken().value() == reason);
    // With nothing, not even what it has kept, or nobody has changed.
    for (const std::uint64_t number : {0, 3, 7})
        BOOST_TEST(why(read_block(*newer, number)) == "backup 'newer' is broken: " + reason);
    const auto status = newer->status(0, 8 * block);
    BOOST_REQUIRE(!status);
    BOOST_CHECK(status.error().code == Errc::io);
    BOOST_TEST((read_all(*older) == of(8 * block, 1)));
    BOOST_TEST(older->scratch_bytes() == 2 * block);
    // It stays broken, and what it had kept stays for the older one.
    disk.frozen.tidy();
    BOOST_TEST(MemoryScratch::alive == 2);
    BOOST_TEST((read_all(*older) == of(8 * block, 1)));
    disk.frozen.thaw(*newer);
    BOOST_TEST((read_all(*older) == of(8 * block, 1)));
    disk.frozen.thaw(*older);
    BOOST_TEST(MemoryScratch::alive == 0);
    BOOST_TEST(disk.broken == 1u);
}

BOOST_AUTO_TEST_CASE(F2_the_scratch_of_a_broken_one_is_given_back)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    const auto frozen = disk.freeze("mon", std::make_unique<MemoryScratch>(8 * block, 2 * block));
    disk.write({0, 4 * block}, 3);
    BOOST_TEST(frozen->broken().has_value());
    BOOST_TEST(!disk.frozen.any());
    disk.frozen.tidy();
    BOOST_TEST(MemoryScratch::alive == 0);
    BOOST_TEST(!read_block(*frozen, 0));
    // All of them, where the image needs the room.
    const auto one = disk.freeze("one"), two = disk.freeze("two");
    disk.write({0, 8 * block}, 4);
    BOOST_TEST(disk.frozen.break_all("the image's file system is full"));
    BOOST_TEST(MemoryScratch::alive == 0);
    BOOST_TEST(why(read_block(*one, 0)) ==
               "backup 'one' is broken: the image's file system is full");
    BOOST_TEST(!disk.frozen.break_all("again"));
    BOOST_TEST(two->broken().value() == "the image's file system is full");
    BOOST_TEST(disk.broken == 3u);
}

// It could not be read before it was overwritten, and cannot be afterwards; the rest can.
BOOST_AUTO_TEST_CASE(F3_what_could_not_be_read_stays_unreadable_and_no_more)
{
    FreezableDisk disk(64 * block);
    disk.write({0, 64 * block}, 1);
    const auto older = disk.freeze("older"), frozen = disk.freeze("mon");
    disk.inner.unreadable = Range::of(21 * block + 512, 512);
    BOOST_TEST(why(read_block(*frozen, 21)) == "a bad sector");
    disk.write({0, 64 * block}, 2);
    disk.inner.unreadable = {};
    BOOST_TEST(!frozen->broken());
    for (FrozenDisk *each : {older.get(), frozen.get()})
        for (std::uint64_t number = 0; number < 64; ++number) {
            Buffer bytes(block);
            const auto read = each->read(GuestOffset(number * block), bytes);
            if (number != 21)
                BOOST_TEST((read && bytes == of(block, 1)));
            else
                BOOST_TEST(why(read) ==
                           "what was at 0x15000 could not be read when it was overwritten");
        }
    BOOST_TEST(disk.inner.reads < 40u);  // not block by block
    expect_extents(*frozen, {{64 * block, false, false}});
}

BOOST_AUTO_TEST_CASE(F3_a_scratch_that_cannot_be_read_is_an_error_of_that_read)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    MemoryScratch *scratch = nullptr;
    const auto frozen = disk.freeze("mon", scratch);
    disk.write({0, block}, 2);
    scratch->on_read = [] { return Error(Errc::io, "a bad disk"); };
    BOOST_TEST(why(read_block(*frozen, 0)) == "a bad disk");
    must(read_block(*frozen, 1));
    scratch->on_read = nullptr;
    must(read_block(*frozen, 0));
}

// Broken while somebody reads: he has read newer bytes, and gets none.
BOOST_AUTO_TEST_CASE(F3_a_reader_looks_last_whether_it_is_broken)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    const auto frozen = disk.freeze("mon", std::make_unique<MemoryScratch>(8 * block, 0));
    disk.on_live_read = [&] {
        disk.on_live_read = nullptr;
        disk.write({3 * block, 5 * block}, 2);
    };
    Buffer bytes(8 * block);
    BOOST_TEST(why(frozen->read(GuestOffset(0), bytes)).starts_with("backup 'mon' is broken: "));
    BOOST_TEST(bytes[3 * block] == 2);
    const auto ended = disk.freeze("tue");
    disk.on_live_read = [&] {
        disk.on_live_read = nullptr;
        disk.frozen.thaw(*ended);
        disk.write({3 * block, 5 * block}, 3);
    };
    BOOST_TEST(why(ended->read(GuestOffset(0), bytes)) == "backup 'tue' has ended");
    const auto status = disk.freeze("wed");
    disk.on_live_read = [&] {
        disk.on_live_read = nullptr;
        disk.frozen.break_all("no reason");
        disk.zero({3 * block, 5 * block});
    };
    BOOST_TEST(!status->status(0, 8 * block));
}

BOOST_AUTO_TEST_CASE(F2_no_time_for_a_copy_breaks_the_backup)
{
    FreezableDisk disk(8 * block, FrozenDisks::Duration::zero());
    disk.write({0, 8 * block}, 1);
    const auto older = disk.freeze("older"), newer = disk.freeze("newer");
    disk.write({0, block}, 2);
    BOOST_TEST(disk.inner.content()[0] == 2);
    for (FrozenDisk *each : {older.get(), newer.get()})
        BOOST_TEST(each->broken().value() == "it takes too long to keep what is overwritten");
}

// One copy that takes too long: what it has kept is there for older ones, but no more is.
BOOST_AUTO_TEST_CASE(F2_a_slow_scratch_breaks_its_backup)
{
    using namespace std::chrono_literals;
    FreezableDisk disk(8 * block, 20ms);
    disk.write({0, 8 * block}, 1);
    const auto older = disk.freeze("older");
    MemoryScratch *scratch = nullptr;
    const auto newer = disk.freeze("newer", scratch);
    scratch->on_write = [] {
        std::this_thread::sleep_for(25ms);
        return Result<void>();
    };
    disk.write({0, block}, 2);
    BOOST_TEST(newer->broken().has_value());
    BOOST_TEST(!older->broken());
    BOOST_TEST((read_all(*older) == of(8 * block, 1)));
    // All parts of a change together.
    FrozenDisks::Waited waited;
    MemoryScratch *slow = nullptr;
    const auto third = disk.freeze("third", slow);
    slow->on_write = [] {
        std::this_thread::sleep_for(11ms);
        return Result<void>();
    };
    for (const std::uint64_t number : {3, 4, 5})
        disk.frozen.before_part(disk.inner, Range::of(number * block, block), waited);
    BOOST_TEST(third->broken().has_value());
}

// A scratch that does not answer holds those who wait for it no longer than the limit.
BOOST_AUTO_TEST_CASE(F2_who_waits_for_a_copy_that_hangs_goes_on)
{
    using namespace std::chrono_literals;
    FreezableDisk disk(8 * block, 50ms);
    disk.write({0, 8 * block}, 1);
    MemoryScratch *scratch = nullptr;
    const auto older = disk.freeze("older"), frozen = disk.freeze("mon", scratch);
    std::promise<void> answers;
    std::promise<void> asked;
    scratch->on_write = [&, future = answers.get_future().share()] {
        asked.set_value();
        future.wait();
        return Result<void>();
    };
    std::thread stuck([&] { disk.write({0, 2 * block}, 2); });
    asked.get_future().wait();
    disk.write({block, 3 * block}, 3);  // comes back while the other still hangs
    BOOST_TEST(disk.inner.content()[block] == 3);
    BOOST_TEST((frozen->broken() && older->broken()));
    answers.set_value();
    stuck.join();
    BOOST_TEST((!read_block(*older, 1) && !read_block(*frozen, 5)));
}

BOOST_AUTO_TEST_CASE(F2_who_changes_a_block_that_is_being_kept_waits_for_it)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    MemoryScratch *scratch = nullptr;
    const auto frozen = disk.freeze("mon", scratch);
    std::promise<void> answers, asked;
    scratch->on_write = [&, future = answers.get_future().share(), first = true]() mutable {
        if (std::exchange(first, false)) {
            asked.set_value();
            future.wait();
        }
        return Result<void>();
    };
    std::thread first([&] { disk.write({0, 2 * block}, 2); });
    asked.get_future().wait();
    WaitingThread second([&] { disk.write({block, 3 * block}, 3); });
    second.wait_until_asleep();
    BOOST_TEST(disk.inner.content()[2 * block] == 1);
    answers.set_value();
    first.join();
    second.join();
    BOOST_TEST((read_all(*frozen) == of(8 * block, 1)));
    BOOST_TEST(frozen->scratch_bytes() == 3 * block);
}

// Where scratch is slow each change waits for its own copy, and not for those of the others:
// all copies are under way at the same time.
BOOST_AUTO_TEST_CASE(F2_copies_of_different_blocks_do_not_wait_for_each_other)
{
    using namespace std::chrono_literals;
    constexpr unsigned writers = 8;
    FreezableDisk disk(writers * block);
    disk.write({0, writers * block}, 1);
    MemoryScratch *scratch = nullptr;
    const auto frozen = disk.freeze("mon", scratch);
    std::mutex mutex;
    std::condition_variable changed;
    unsigned inside = 0, met = 0;
    scratch->on_write = [&] {
        std::unique_lock<std::mutex> lock(mutex);
        ++inside;
        changed.notify_all();
        met += changed.wait_for(lock, 5s, [&] { return inside == writers; });
        return Result<void>();
    };
    std::vector<std::thread> threads;
    for (std::uint64_t number = 0; number < writers; ++number)
        threads.emplace_back([&, number] { disk.write(Range::of(number * block, block), 2); });
    for (std::thread &thread : threads)
        thread.join();
    BOOST_TEST(met == writers);
    BOOST_TEST((read_all(*frozen) == of(writers * block, 1)));
}

BOOST_AUTO_TEST_SUITE_END()
