// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// DirtyBits against sets of bits; and with threads, against its promise: when
// mark() says that bits are durable, or an arming has made them so, the file
// has them, whatever is cooled meanwhile. And no bit is lost where threads meet
// in what none of them has in memory yet.

#include "core/bitmap/dirty_bits.h"

#include <mutex>
#include <thread>

#include "core/base/bit_vector.h"
#include "tests/support/must.h"
#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(dirty_bits_model)

namespace {

constexpr std::uint64_t page_bits = DirtyBits::page_bits;

// What the file has, and what of it is durable.
class File {
public:
    explicit File(std::uint64_t bits) : bytes_(align_up(div_ceil(bits, 8), DirtyBits::page_bytes))
    {
    }

    Result<void> load(std::uint64_t page, MutableBytes bytes)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::copy_n(bytes_.begin() + page * DirtyBits::page_bytes, bytes.size(), bytes.begin());
        return {};
    }
    // Only the sectors that the image names.
    void write(const PageImage &image)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (std::uint64_t sector = 0; sector < 8; ++sector)
            if (image.sectors >> sector & 1)
                std::copy_n(image.content.begin() + sector * 512, 512,
                            bytes_.begin() + image.page * DirtyBits::page_bytes + sector * 512);
    }
    bool test(std::uint64_t bit) const
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        return bytes_[bit / 8] >> bit % 8 & 1;
    }
    void set(std::uint64_t bit) { bytes_[bit / 8] |= std::uint8_t(1u << bit % 8); }

private:
    mutable std::mutex mutex_;
    Buffer bytes_;
};

class Model {
public:
    Model(Random &random, std::uint64_t bits, std::uint64_t region)
        : random_(random),
          size_(bits),
          file_(bits),
          precise_(bits),
          bits_(bits, region,
                [this](std::uint64_t page, MutableBytes bytes) { return file_.load(page, bytes); })
    {
        for (int i = 0; i < 50; ++i) {
            const std::uint64_t bit = random.below(bits);
            file_.set(bit);
            precise_.set(bit);
        }
    }

    void mark(Range range)
    {
        const bool durable = must(bits_.mark(range));
        precise_.set(range);
        if (durable)
            expect_in_file(range);
    }

    void arm(Range range)
    {
        const Range pages = DirtyBits::pages_of(range);
        for (std::uint64_t page = pages.begin; page < pages.end; ++page) {
            const auto image = random_.one_in(4) ? bits_.arm_whole(page) : bits_.arm(page);
            if (!image)
                continue;
            expect_in_bounds(*image);
            if (random_.one_in(10))
                return;  // it failed; it may be there or not
            file_.write(*image);
            bits_.durable(*image);
        }
        if (must(bits_.mark(range)))
            expect_in_file(range);
    }

    void cool(bool all)
    {
        for (std::uint64_t page = 0; page < bits_.pages(); ++page)
            if (const auto image = bits_.cool(page, all); image && !random_.one_in(10)) {
                file_.write(*image);
                bits_.written(*image);
            }
    }

    // Everything is loaded, or was never touched.
    void settle()
    {
        for (std::uint64_t page = 0; page < bits_.pages(); ++page)
            if (const auto image = bits_.settle(page)) {
                file_.write(*image);
                bits_.written(*image);
            }
        bits_.settled();
        for (std::uint64_t bit = 0; bit < size_; ++bit)
            if (file_.test(bit) != precise_.test(bit))
                BOOST_FAIL("bit " << bit << " is " << file_.test(bit));
        BOOST_TEST(bits_.extra_bits() == 0u);
    }

private:
    void expect_in_file(Range range) const
    {
        for (std::uint64_t bit = range.begin; bit < range.end; ++bit)
            if (!file_.test(bit))
                BOOST_FAIL("bit " << bit << " is said to be durable and is not in the file");
    }
    void expect_in_bounds(const PageImage &image) const
    {
        for (std::uint64_t bit = size_; bit < (image.page + 1) * page_bits; ++bit)
            if (image.content[bit % page_bits / 8] >> bit % 8 & 1)
                BOOST_FAIL("bit " << bit << " behind the end");
    }

    Random &random_;
    const std::uint64_t size_;
    File file_;
    BitVector precise_;
    DirtyBits bits_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(as_sets_of_bits, *one_thread())
{
    for (const std::uint64_t seed : seeds(40)) {
        SEEDED(seed);
        Random random(seed);
        const std::uint64_t size =
            random.pick<std::uint64_t>({1, 7, 64, 1000, page_bits, 3 * page_bits - 77});
        Model model(random, size, random.pick<std::uint64_t>({1, 16, 64, 256, page_bits}));
        for (int step = 0; step < 200; ++step) {
            const std::uint64_t begin = random.below(size);
            const Range range{
                begin, std::min(size, begin + 1 + random.below(random.one_in(9) ? size : 50))};
            switch (random.below(8)) {
            case 0:
            case 1:
            case 2: model.mark(range); break;
            case 3:
            case 4:
            case 5:
                model.mark(range);
                model.arm(range);
                break;
            case 6: model.cool(random.one_in(4)); break;
            case 7:
                if (random.one_in(5))
                    model.settle();
                break;
            }
        }
        model.settle();
    }
}

// Where a region is less than a word of bits, the others of the word are left alone: those that
// came from the file, that were stored, and that were cooled.
BOOST_AUTO_TEST_CASE(only_the_regions_of_new_bits_are_armed)
{
    for (const char *how : {"loaded", "stored", "cooled"}) {
        BOOST_TEST_INFO_SCOPE(how);
        File file(page_bits);
        if (how == std::string("loaded"))
            file.set(40);
        DirtyBits bits(page_bits, 8, [&](std::uint64_t page, MutableBytes bytes) {
            return file.load(page, bytes);
        });
        const auto arm = [&](std::uint64_t bit) {
            BOOST_TEST(!must(bits.mark({bit, bit + 1})));
            const auto image = bits.arm(0);
            BOOST_REQUIRE(image);
            bits.durable(*image);
            return image->regions;
        };
        if (how != std::string("loaded"))
            arm(40);
        BOOST_TEST(must(bits.mark({40, 41})));
        if (how == std::string("stored")) {
            bits.settle(0);
            bits.settled();
        } else {
            for (int i = 0; i < 9; ++i)
                bits.cool(0, true);
        }
        BOOST_TEST((arm(3) == std::vector<Range>{{0, 8}}));
        BOOST_TEST(must(bits.mark({40, 41})));
    }
}

// One arming after the other in a page is four times as wide; a stream that runs into the next page
// goes on with sixteen times as much. Each cooling takes half of that back.
BOOST_AUTO_TEST_CASE(regions_widen_by_evidence)
{
    DirtyBits bits(3 * page_bits, 256, [](std::uint64_t, MutableBytes) { return Result<void>(); });
    const auto armed_by = [&](std::uint64_t page, std::uint64_t bit) {
        must(bits.mark({page * page_bits + bit, page * page_bits + bit + 1}));
        const auto image = bits.arm(page);
        BOOST_REQUIRE((image && image->regions.size() == 1));
        bits.durable(*image);
        return image->regions[0];
    };
    BOOST_TEST((armed_by(0, 300) == Range{256, 512}));
    BOOST_TEST((armed_by(0, 1030) == Range{1024, 2048}));
    BOOST_TEST((armed_by(0, 5000) == Range{4096, 8192}));
    BOOST_TEST((armed_by(0, 30000) == Range{16384, 32768}));
    BOOST_TEST(bits.extra_bits() == 256u + 1024 + 4096 + 16384 - 4);
    BOOST_TEST((armed_by(1, 0) == Range{0, 4096}));
    BOOST_TEST((armed_by(0, 9000) == Range{0, page_bits}));
    BOOST_TEST((armed_by(2, 700) == Range{512, 768}));
    BOOST_TEST((armed_by(2, 1024) == Range{1024, 2048}));
    bits.cool(2, true);
    BOOST_TEST((armed_by(2, 4096) == Range{4096, 5120}));
}

// Writers mark, and arm what is not durable; one cools all the time. At the
// moment when a change may go down its bit is in the file, and it stays there.
BOOST_AUTO_TEST_CASE(threads_that_mark_while_regions_cool)
{
    constexpr std::uint64_t size = page_bits + 100;
    for (const std::uint64_t seed : seeds(6)) {
        SEEDED(seed);
        File file(size);
        DirtyBits bits(size, 64, [&](std::uint64_t page, MutableBytes bytes) {
            return file.load(page, bytes);
        });
        std::mutex turn;
        std::atomic<unsigned> lies{0};
        std::atomic<bool> stop{false};
        // No BOOST_ in a thread: they are for one thread only.
        const auto change = [&](Random &random) {
            const std::uint64_t bit = random.below(size);
            const Result<bool> durable = bits.mark({bit, bit + 1});
            if (!durable)
                ++lies;
            else if (!*durable) {
                const std::lock_guard<std::mutex> lock(turn);
                if (const auto image = random.one_in(4) ? bits.arm_whole(bit / page_bits)
                                                        : bits.arm(bit / page_bits)) {
                    file.write(*image);
                    bits.durable(*image);
                }
            }
            lies += !file.test(bit);
            return bit;
        };
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                Random random(seed * 100 + t);
                std::vector<std::uint64_t> mine;
                for (int i = 0; i < 3000; ++i)
                    mine.push_back(change(random));
                for (const std::uint64_t bit : mine)
                    lies += !file.test(bit);
            });
        std::thread cooler([&] {
            while (!stop) {
                const std::lock_guard<std::mutex> lock(turn);
                for (std::uint64_t page = 0; page < bits.pages(); ++page)
                    if (const auto image = bits.cool(page, true)) {
                        file.write(*image);
                        bits.written(*image);
                    }
            }
        });
        for (std::thread &thread : threads)
            thread.join();
        stop = true;
        cooler.join();
        BOOST_TEST(lies == 0u);
    }
}

// All come to one sector after the other at the same moment, each with a bit of
// its own.
BOOST_AUTO_TEST_CASE(threads_that_make_the_same_sectors)
{
    constexpr std::uint64_t pages = 25;
    constexpr std::uint64_t size = pages * page_bits;
    constexpr std::uint64_t sector_bits = PageImage::sector_bytes * 8;
    constexpr std::uint64_t sectors = size / sector_bits;
    constexpr unsigned threads_count = 3;
    for (const std::uint64_t seed : seeds(4)) {
        SEEDED(seed);
        Random random(seed);
        File file(size);
        DirtyBits bits(size, 64, [&](std::uint64_t page, MutableBytes bytes) {
            return file.load(page, bytes);
        });
        const std::uint64_t first = random.below(sector_bits - threads_count);
        std::atomic<std::uint64_t> arrived{0};
        std::atomic<unsigned> lies{0};
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < threads_count; ++t)
            threads.emplace_back([&, t] {
                for (std::uint64_t sector = 0; sector < sectors; ++sector) {
                    ++arrived;
                    while (arrived < (sector + 1) * threads_count)
                        std::this_thread::yield();
                    const std::uint64_t bit = sector * sector_bits + first + t;
                    const Result<bool> durable = bits.mark({bit, bit + 1});
                    lies += !durable || *durable;
                }
            });
        for (std::thread &thread : threads)
            thread.join();
        BOOST_TEST(lies == 0u);
        for (std::uint64_t page = 0; page < pages; ++page)
            if (const auto image = bits.settle(page))
                file.write(*image);
        for (std::uint64_t bit = 0; bit < size; ++bit) {
            const std::uint64_t in_sector = bit % sector_bits;
            const bool marked = in_sector >= first && in_sector < first + threads_count;
            if (file.test(bit) != marked)
                BOOST_FAIL("bit " << bit << " is " << file.test(bit));
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
