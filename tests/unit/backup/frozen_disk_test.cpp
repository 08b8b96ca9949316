// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Frozen disks, one case after the other (rule F1; F2 and F3: frozen_disk_breaks_test.cpp).

#include "tests/unit/backup/frozen_disk.h"

using namespace qcow2;
using namespace qcow2::test;

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
    expect_extents(*frozen, {{block, true, true},
                             {3 * block, false, false},
                             {2 * block, true, true},
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
    const std::vector<Range> parts =
        disk.frozen.trimmable(disk.inner, {block + 512, 12 * block + 512});
    const std::vector<Range> expected{{2 * block, 4 * block}, {10 * block, 12 * block + 512}};
    BOOST_TEST((parts == expected));
    disk.trim({0, 16 * block});
    Buffer was = of(10 * block, 1);
    was.resize(16 * block);
    BOOST_TEST((read_all(*frozen) == was));
    // What could be trimmed is as it was, whatever the image makes of a trim.
    disk.inner.write({10 * block, 12 * block}, 9);
    BOOST_TEST((read_all(*frozen) == was));
    BOOST_TEST((disk.frozen.trimmable(disk.inner, {2 * block, 3 * block}) ==
                std::vector<Range>{{2 * block, 3 * block}}));
    disk.frozen.thaw(*frozen);
    BOOST_TEST(
        (disk.frozen.trimmable(disk.inner, {5, 7 * block}) == std::vector<Range>{{5, 7 * block}}));
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
    BOOST_TEST(why(frozen->read(GuestOffset(3 * block), bytes))
                   .starts_with("what is at 0x4000 is not part"));
    expect_extents(*frozen, {{16 * block, false, false}});
    BOOST_TEST(
        (disk.frozen.trimmable(disk.inner, {0, 16 * block}) == std::vector<Range>{{0, 9 * block}}));
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

BOOST_AUTO_TEST_SUITE_END()
