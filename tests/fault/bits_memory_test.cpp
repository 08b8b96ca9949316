// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What memory do the bits of bitmaps take, at rest and while they are armed? And what if there
// is none?

#include <boost/test/unit_test.hpp>

#include <new>
#include <utility>

#include "core/bitmap/dirty_bits.h"
#include "core/disk.h"
#include "tests/support/image_builder.h"
#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/random.h"
#include "tests/support/scarce_memory.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(bits_memory)

// One change touches all pages of all bitmaps. What is written goes page by page: it is not held
// for all of them (which would be two copies of 4 KiB for each).
BOOST_AUTO_TEST_CASE(to_arm_and_to_store_many_bitmaps_takes_little_memory)
{
    constexpr std::int64_t most = 512 << 10;
    constexpr unsigned bitmaps = 40;
    constexpr std::uint64_t pages = 16;
    ImageSpec spec;
    spec.cluster_bits = 16;
    spec.size = pages * DirtyBits::page_bits << 16;
    for (unsigned n = 0; n < bitmaps; ++n)
        spec.bitmaps.push_back({.name = "b" + std::to_string(n),
                                .granularity_bits = 16,
                                .set = {{5, 6}},
                                .extra_data = {}});
    MemoryStore store(build_image(spec).image);
    DiskOptions options;
    options.bitmap_sync = BitmapSync::durable;
    const auto disk = must(Disk::open(store, options));
    must(disk->begin_writing());
    const auto meanwhile = [](const auto &work) {
        memory_taken_most = memory_taken;
        work();
        BOOST_TEST_MESSAGE("meanwhile " << memory_taken_most - memory_taken << " bytes more");
        return memory_taken_most - memory_taken;
    };
    BOOST_TEST(meanwhile([&] { must(disk->trim(GuestOffset(0), spec.size, false)); }) <= most);
    BOOST_TEST(meanwhile([&] { must(disk->settle()); }) <= most);
    must(disk->close());
}

// One bit in each of many pages, half of which have one more in the file.
BOOST_AUTO_TEST_CASE(bits_take_memory_for_their_sectors)
{
    constexpr std::int64_t pages = 1000;
    constexpr std::int64_t sector_max = 700;  // its page included
    for (const std::uint64_t seed : seeds(1)) {
        SEEDED(seed);
        Random random(seed);
        const std::int64_t before = memory_taken;
        DirtyBits bits(pages * DirtyBits::page_bits, 64,
                       [](std::uint64_t page, MutableBytes bytes) {
                           bytes[page % DirtyBits::page_bytes] = page % 2;
                           return Result<void>();
                       });
        const auto expect_sectors = [&](std::int64_t sectors, const char *when) {
            BOOST_TEST_MESSAGE(when << ": " << memory_taken - before << " bytes");
            BOOST_TEST(memory_taken - before <= sectors * sector_max, when);
        };
        for (std::uint64_t page = 0; page < pages; ++page) {
            const std::uint64_t bit =
                page * DirtyBits::page_bits + random.below(DirtyBits::page_bits);
            must(bits.mark({bit, bit + 1}));
        }
        expect_sectors(pages + pages / 2, "marked");
        for (std::uint64_t page = 0; page < pages; ++page)
            if (const auto image = bits.arm(page))
                bits.durable(*image);
        expect_sectors(pages + pages / 2, "armed");
        for (const bool all : {false, true})
            for (std::uint64_t page = 0; page < pages; ++page)
                if (const auto image = bits.cool(page, all))
                    bits.written(*image);
        for (std::uint64_t page = 0; page < pages; ++page)
            if (const auto image = bits.settle(page))
                bits.written(*image);
        bits.settled();
        expect_sectors(pages + pages / 2, "settled");
        must(bits.mark({0, DirtyBits::page_bits}));
        expect_sectors(pages + pages / 2 + 8, "a page that is full");
    }
}

// Where there is no memory for bits that are to be instead, those stay that were: a copy has
// them all.
BOOST_AUTO_TEST_CASE(C9_bits_that_cannot_be_replaced_stay)
{
    for (std::uint64_t nth = 1;; ++nth) {
        DirtyBits bits(3 * DirtyBits::page_bits, DirtyBits::page_bits,
                       [](std::uint64_t, MutableBytes) { return Result<void>(); });
        must(bits.mark({5, 6}));
        SparseBits others(3 * DirtyBits::page_bits);
        for (const std::uint64_t bit : {std::uint64_t(9000), 2 * DirtyBits::page_bits})
            others.set({bit, bit + 1});
        bool ran_out = false;
        memory_left = nth;
        try {
            bits.replace_precise(others);
        } catch (const std::bad_alloc &) {
            ran_out = true;
        }
        memory_left = 0;
        BOOST_TEST(must(bits.count()) == (ran_out ? 1u : 2u), "no memory for thing " << nth);
        if (!ran_out)
            break;
    }
}

// What is in the file is taken note of where there is no memory, too.
BOOST_AUTO_TEST_CASE(bits_that_were_written_need_no_memory)
{
    DirtyBits bits(DirtyBits::page_bits, DirtyBits::page_bits,
                   [](std::uint64_t, MutableBytes) { return Result<void>(); });
    must(bits.mark({5, 6}));
    const auto armed = bits.arm(0);
    BOOST_REQUIRE((armed && armed->sectors == 0xff));
    memory_left = 1;
    bits.durable(*armed);
    bits.settled();
    BOOST_TEST(std::exchange(memory_left, 0) == 1u);
    BOOST_TEST(must(bits.mark({5, 6})));
}

BOOST_AUTO_TEST_SUITE_END()
