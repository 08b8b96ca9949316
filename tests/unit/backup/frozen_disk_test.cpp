// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Frozen disks, one case after the other (rules F1, F2, F3).

#include "core/backup/frozen_disk.h"

#include <boost/test/unit_test.hpp>

#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/frozen_disk_driver.h"
#include "tests/support/waiting_thread.h"

using namespace qcow2;
using namespace qcow2::test;

namespace {

constexpr std::uint64_t block = block_bytes;

Buffer of(std::uint64_t length, std::uint8_t value) { return Buffer(length, value); }

Result<void> read_block(FrozenDisk &disk, std::uint64_t number)
{
    Buffer bytes(block);
    return disk.read(GuestOffset(number * block), bytes);
}

std::string why(const Result<void> &result)
{
    BOOST_REQUIRE(!result);
    BOOST_CHECK(result.error().code == Errc::io);
    return result.error().what;
}

void expect_extents(FrozenDisk &disk, const std::vector<Extent> &expected)
{
    const auto extents = must(disk.status(0, disk.size()));
    BOOST_REQUIRE_EQUAL(extents.size(), expected.size());
    for (std::size_t i = 0; i < extents.size(); ++i) {
        BOOST_TEST(extents[i].length == expected[i].length);
        BOOST_TEST(extents[i].same_kind(expected[i]));
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(frozen_disk)

BOOST_AUTO_TEST_CASE(F1_what_is_overwritten_is_read_as_it_was)
{
    FreezableDisk disk(20 * block + 512);
    disk.write({0, 10 * block}, 1);
    const Buffer was = disk.inner.content();
    MemoryScratch *scratch = nullptr;
    const auto frozen = disk.freeze("mon", scratch);
    disk.write({block + 100, 3 * block + 7}, 2);
    disk.write({9 * block, 20 * block + 512}, 3);
    disk.zero({0, 5 * block});
    BOOST_TEST((read_all(*frozen) == was));
    BOOST_TEST(scratch->writes == 4u);  // in runs: 1 to 3, 9, and 0 and 4 with the zeros
    BOOST_TEST(scratch->bytes_used() == 6 * block);
    BOOST_TEST(frozen->scratch_bytes() == 6 * block);
    BOOST_TEST(frozen->bytes_read() == was.size());
    // Zeros cost no room, and are known as that.
    expect_extents(*frozen, {{10 * block, false, false}, {10 * block + 512, true, true}});
    disk.frozen.thaw(*frozen);
    BOOST_TEST(!disk.frozen.any());
    BOOST_TEST(frozen->scratch_bytes() == 0u);
    BOOST_TEST(MemoryScratch::alive == 0);
}

// A block that begins with zeros is data.
BOOST_AUTO_TEST_CASE(F1_a_block_that_is_zero_in_part_is_kept_whole)
{
    FreezableDisk disk(6 * block + 1024);
    for (const std::uint64_t at : {block + 512, 2 * block, 4 * block - 512, 6 * block + 512})
        disk.write(Range::of(at, 512), 1);
    const Buffer was = disk.inner.content();
    const auto frozen = disk.freeze("mon");
    disk.write({0, disk.inner.size()}, 2);
    BOOST_TEST((read_all(*frozen) == was));
    BOOST_TEST(frozen->scratch_bytes() == 3 * block + 1024);
    expect_extents(*frozen, {{block, true, true}, {3 * block, false, false}, {2 * block, true, true},
                             {1024, false, false}});
}

BOOST_AUTO_TEST_CASE(F1_a_reader_looks_again)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    const auto frozen = disk.freeze("mon");
    disk.on_live_read = [&] {
        disk.on_live_read = nullptr;
        disk.write({3 * block, 5 * block}, 2);
    };
    BOOST_TEST((read_all(*frozen) == of(8 * block, 1)));
    // What has no data now had some.
    disk.on_live_read = [&] {
        disk.on_live_read = nullptr;
        disk.zero({0, 2 * block});
    };
    expect_extents(*frozen, {{8 * block, false, false}});
}

BOOST_AUTO_TEST_CASE(F1_a_block_is_kept_when_its_copy_is_there)
{
    FreezableDisk disk(2 * block);
    disk.write({0, block}, 1);
    MemoryScratch *scratch = nullptr;
    const auto frozen = disk.freeze("mon", scratch);
    scratch->on_write = [&] { return read_block(*frozen, 0); };
    disk.write({0, 2 * block}, 2);
    must(read_block(*frozen, 0));
}

// What has been kept meanwhile was kept for a disk that was frozen meanwhile.
BOOST_AUTO_TEST_CASE(F1_a_reader_looks_at_those_that_are_newer_than_his_first_look)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    const auto older = disk.freeze("older");
    std::shared_ptr<FrozenDisk> newer;
    disk.on_live_read = [&] {
        disk.on_live_read = nullptr;
        newer = disk.freeze("newer");
        disk.write({3 * block, 5 * block}, 2);
    };
    BOOST_TEST((read_all(*older) == of(8 * block, 1)));
    BOOST_TEST(newer->scratch_bytes() == 2 * block);
}

BOOST_AUTO_TEST_CASE(F1_a_block_is_kept_once_by_the_newest_that_needs_it)
{
    FreezableDisk disk(8 * block);
    disk.write({0, 8 * block}, 1);
    const auto older = disk.freeze("older");
    disk.write({0, 2 * block}, 2);
    const auto newer = disk.freeze("newer");
    disk.write({block, 4 * block}, 3);
    BOOST_TEST(older->scratch_bytes() == 2 * block);
    BOOST_TEST(newer->scratch_bytes() == 3 * block);
    BOOST_TEST((read_all(*older) == of(8 * block, 1)));
    Buffer was = of(8 * block, 1);
    std::fill_n(was.begin(), 2 * block, 2);
    BOOST_TEST((read_all(*newer) == was));
}

BOOST_AUTO_TEST_CASE(F1_what_a_newer_one_has_kept_outlives_it)
{
    FreezableDisk disk(16 * block);
    disk.write({0, 8 * block}, 1);
    const auto oldest = disk.freeze("oldest");
    disk.write({0, block}, 2);
    MemoryScratch *scratch = nullptr;
    const auto newer = disk.freeze("newer", scratch);
    disk.write({0, 12 * block}, 3);
    BOOST_TEST(scratch->bytes_used() == 8 * block);
    disk.frozen.thaw(*newer);
    BOOST_TEST(why(read_block(*newer, 15)) == "backup 'newer' has ended");
    // But for what the older one has kept itself.
    BOOST_TEST(scratch->bytes_used() == 7 * block);
    disk.write({0, 16 * block}, 4);
    BOOST_TEST(oldest->scratch_bytes() == block);
    Buffer was = of(8 * block, 1);
    was.resize(16 * block);
    BOOST_TEST((read_all(*oldest) == was));
    BOOST_TEST(MemoryScratch::alive == 2);
    disk.frozen.thaw(*oldest);
    BOOST_TEST(MemoryScratch::alive == 0);
}

// As with an hourly backup beside one that takes days.
BOOST_AUTO_TEST_CASE(F1_many_short_backups_beside_a_long_one_leave_few_files)
{
    constexpr std::uint64_t blocks = 64;
    FreezableDisk disk(blocks * block);
    disk.write({0, 60 * block}, 1);
    const Buffer was = disk.inner.content();
    const auto oldest = disk.freeze("oldest");
    for (std::uint64_t n = 0; n < 30; ++n) {
        const auto shorter = disk.freeze("shorter");
        disk.write(Range::of(n * 2 * block, 3 * block + 1), static_cast<std::uint8_t>(n + 2));
        disk.frozen.thaw(*shorter);
        BOOST_TEST(MemoryScratch::alive <= 9);
        BOOST_REQUIRE((read_all(*oldest) == was));
    }
    expect_extents(*oldest, {{60 * block, false, false}, {4 * block, true, true}});
    disk.frozen.thaw(*oldest);
    BOOST_TEST(MemoryScratch::alive == 0);
}

BOOST_AUTO_TEST_CASE(F1_a_trim_spares_what_is_needed)
{
    FreezableDisk disk(16 * block);
    disk.write({0, 10 * block}, 1);
    const auto frozen = disk.freeze("mon");
    disk.write({2 * block, 4 * block}, 2);
    const std::vector<Range> parts = disk.frozen.trimmable(disk.inner, {block + 512, 12 * block + 512});
    const std::vector<Range> expected{{2 * block, 4 * block}, {10 * block, 12 * block + 512}};
    BOOST_TEST((parts == expected));
    disk.trim({0, 16 * block});
    Buffer was = of(10 * block, 1);
    was.resize(16 * block);
    BOOST_TEST((read_all(*frozen) == was));
    // What could be trimmed is as it was, whatever the image makes of a trim.
    disk.inner.write({10 * block, 12 * block}, 9);
    BOOST_TEST((read_all(*frozen) == was));
    BOOST_TEST((disk.frozen.trimmable(disk.inner, {2 * block, 3 * block}) == std::vector<Range>{{2 * block, 3 * block}}));
    disk.frozen.thaw(*frozen);
    BOOST_TEST((disk.frozen.trimmable(disk.inner, {5, 7 * block}) == std::vector<Range>{{5, 7 * block}}));
}

BOOST_AUTO_TEST_CASE(F1_only_what_is_needed_is_kept)
{
    FreezableDisk disk(16 * block);
    disk.write({0, 16 * block}, 1);
    const auto needed = std::make_shared<NeededRanges>(std::vector<Range>{{2, 4}, {8, 16}});
    const auto frozen = disk.freeze("mon", std::make_unique<MemoryScratch>(16 * block), needed);
    disk.write({0, 9 * block}, 2);
    BOOST_TEST(frozen->scratch_bytes() == 3 * block);
    for (const std::uint64_t number : {2, 3, 8, 9})
        must(read_block(*frozen, number));
    BOOST_TEST(why(read_block(*frozen, 0)) ==
               "what is at 0x0 is not part of backup 'mon': it was begun for what is dirty");
    Buffer bytes(2 * block);
    BOOST_TEST(why(frozen->read(GuestOffset(3 * block), bytes)).starts_with("what is at 0x4000 is not part"));
    expect_extents(*frozen, {{16 * block, false, false}});
    BOOST_TEST((disk.frozen.trimmable(disk.inner, {0, 16 * block}) == std::vector<Range>{{0, 9 * block}}));
    // A newer one that does not need it does not keep it for an older one, who does himself.
    const auto nothing = std::make_shared<NeededRanges>(std::vector<Range>());
    const auto newer = disk.freeze("newer", std::make_unique<MemoryScratch>(16 * block), nothing);
    disk.write({9 * block, 10 * block}, 3);
    BOOST_TEST(frozen->scratch_bytes() == 4 * block);
    BOOST_TEST(newer->scratch_bytes() == 0u);
}

BOOST_AUTO_TEST_CASE(F1_the_frozen_size_stays)
{
    FreezableDisk disk(2 * block + 512);
    disk.write({0, disk.inner.size()}, 1);
    const auto frozen = disk.freeze("mon");
    disk.grow(8 * block);
    const auto newer = disk.freeze("newer");
    disk.write({2 * block, 8 * block}, 2);
    BOOST_TEST(frozen->size() == 2 * block + 512);
    BOOST_TEST((read_all(*frozen) == of(2 * block + 512, 1)));
    Buffer byte(1);
    const auto behind = frozen->read(GuestOffset(frozen->size()), byte);
    BOOST_REQUIRE(!behind);
    BOOST_CHECK(behind.error().code == Errc::invalid);
    BOOST_CHECK(!frozen->status(0, frozen->size() + 1));
    disk.frozen.thaw(*newer);
    disk.write({0, 8 * block}, 3);
    BOOST_TEST((read_all(*frozen) == of(2 * block + 512, 1)));
}

// A zero over much that is needed alternates with its copies, and cuts no cluster.
BOOST_AUTO_TEST_CASE(F2_a_long_zero_goes_in_parts)
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
    BOOST_TEST(why(read_block(*one, 0)) == "backup 'one' is broken: the image's file system is full");
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
                BOOST_TEST(why(read) == "what was at 0x15000 could not be read when it was overwritten");
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
