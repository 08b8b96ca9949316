// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FrozenDisks against plain copies: whatever is changed, and whichever backups
// begin and end, in any order, each frozen disk is what the disk was at its instant
// (F1), or says that it is broken (F3), and that only if its scratch has failed (F2).
// By one thread, and by several.

#include "core/backup/frozen_disks.h"

#include <algorithm>
#include <mutex>
#include <thread>

#include "tests/support/frozen_disk_driver.h"
#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(frozen_disks_model)

namespace {

constexpr std::uint64_t block = block_bytes;

// A frozen disk, and what it must be.
struct Frozen {
    std::shared_ptr<FrozenDisk> disk;
    Buffer was;
    std::shared_ptr<const Needed> needed;  // nullptr: all
    std::atomic<bool> scratch_failed{false};
    std::atomic<bool> ended{false};

    bool needs(Range bytes) const
    {
        for (Range left = bytes.touched(block); needed && !left.empty();) {
            const Needed::Run run = needed->run(left);
            if (!run.needed)
                return false;
            left.begin += run.blocks;
        }
        return true;
    }
};

// Empty, or what is wrong. Whether its backup ended meanwhile is looked at last.
std::string wrong(const Result<void> &done, const Frozen &frozen, Range range)
{
    const std::string where = frozen.disk->name() + " at " + std::to_string(range.begin) + ", " +
                              std::to_string(range.length()) + " bytes: ";
    if (done && !frozen.needs(range))
        return where + "is not needed, and is read";
    if (done || frozen.ended || !frozen.needs(range))
        return {};
    const bool broken = frozen.disk->broken().has_value();
    if (broken && frozen.scratch_failed)
        return {};
    return where + (broken ? "broken without a cause: " : "an error: ") + done.error().what;
}

std::string wrong_bytes(const Frozen &frozen, Range range)
{
    Buffer bytes(range.length());
    const Result<void> read = frozen.disk->read(GuestOffset(range.begin), bytes);
    if (read && !std::equal(bytes.begin(), bytes.end(), frozen.was.begin() + range.begin))
        return frozen.disk->name() + " at " + std::to_string(range.begin) +
               ": other bytes than at its instant";
    return wrong(read, frozen, range);
}

// Zeros are zeros, and holes are told as they were, but where data became zeros at once.
std::string wrong_extents(const Frozen &frozen, Range range)
{
    const auto extents = frozen.disk->status(range.begin, range.length());
    if (!extents)
        return frozen.ended || frozen.scratch_failed ? "" : "status: " + extents.error().what;
    std::uint64_t at = range.begin;
    for (const Extent &extent : *extents) {
        const auto begin = frozen.was.begin() + at;
        if (extent.zero &&
            std::any_of(begin, begin + extent.length,
                        [](std::uint8_t byte) { return byte != 0; }) &&
            frozen.needs(Range::of(at, extent.length)))
            return frozen.disk->name() + " at " + std::to_string(at) + ": data are told as zeros";
        at += extent.length;
    }
    return at == range.end ? "" : "not the whole range is told";
}

std::shared_ptr<const Needed> some_needed(Random &random, std::uint64_t size)
{
    if (random.coin())
        return nullptr;
    std::vector<Range> ranges;
    for (std::uint64_t n = random.below(5); n > 0; --n)
        ranges.push_back(random.range(div_ceil(size, block), 20, 4));
    return std::make_shared<NeededRanges>(ranges);
}

std::shared_ptr<Frozen> freeze(FreezableDisk &disk, Random &random, bool may_fail)
{
    static std::atomic<unsigned> count{0};
    const auto frozen = std::make_shared<Frozen>();
    const std::uint64_t size = disk.inner.size();
    frozen->needed = some_needed(random, size);
    auto scratch = std::make_unique<MemoryScratch>(size);
    if (may_fail && random.one_in(3))
        scratch->on_write = [frozen = frozen.get(),
                             left = std::make_shared<std::atomic<int>>(random.below(20))] {
            if (--*left >= 0)
                return Result<void>();
            frozen->scratch_failed = true;
            return Result<void>(Error(Errc::no_space, "full"));
        };
    frozen->disk = disk.freeze("number " + std::to_string(++count), std::move(scratch),
                               frozen->needed, &frozen->was);
    return frozen;
}

void change(FreezableDisk &disk, Random &random)
{
    const Range range =
        random.range(disk.inner.size(), random.one_in(8) ? disk.inner.size() : 6 * block, block);
    switch (random.below(6)) {
    case 0:
    case 1:
    case 2: disk.write(range, static_cast<std::uint8_t>(random.between(1, 255))); break;
    case 3: disk.zero(range); break;
    default: disk.trim(range); break;
    }
}

class Model {
public:
    Model(Random &random, std::uint64_t size, bool may_fail)
        : random_(random), may_fail_(may_fail), disk_(size)
    {
    }

    void step()
    {
        switch (random_.below(12)) {
        case 0:
            if (frozen_.size() < 6)
                frozen_.push_back(freeze(disk_, random_, may_fail_));
            break;
        case 1: end(); break;
        case 2:
            if (random_.one_in(10))
                disk_.grow(disk_.inner.size() + 512 * random_.between(1, 30));
            break;
        case 3:
        case 4: look(); break;
        case 5: disk_.frozen.tidy(); break;
        default: change(disk_, random_); break;
        }
    }

    void look_at_all()
    {
        for (const auto &frozen : frozen_) {
            const Range whole{0, frozen->disk->size()};
            expect(wrong_bytes(*frozen, whole));
            for (std::uint64_t at = 0; at < whole.end; at += block)
                expect(wrong_bytes(*frozen, {at, std::min(at + block, whole.end)}));
            expect(wrong_extents(*frozen, whole));
        }
    }

    void end_all()
    {
        while (!frozen_.empty())
            end();
        BOOST_TEST(!disk_.frozen.any());
    }

private:
    void expect(const std::string &wrong) { BOOST_REQUIRE_MESSAGE(wrong.empty(), wrong); }

    void look()
    {
        if (frozen_.empty())
            return;
        const Frozen &frozen = *random_.pick(frozen_);
        const Range range = random_.range(frozen.disk->size(), frozen.disk->size(), block);
        expect(wrong_bytes(frozen, range));
        expect(wrong_extents(frozen, range));
    }

    void end()
    {
        if (frozen_.empty())
            return;
        const std::size_t number = random_.below(frozen_.size());
        const auto ended = frozen_[number];
        disk_.frozen.thaw(*ended->disk);
        frozen_.erase(frozen_.begin() + static_cast<std::ptrdiff_t>(number));
        Buffer byte(1);
        BOOST_TEST(!ended->disk->read(GuestOffset(0), byte));
        // Those that are kept for older ones are few.
        BOOST_TEST(MemoryScratch::alive <=
                   static_cast<int>(frozen_.size()) + 8 + static_cast<int>(frozen_.size()));
    }

    Random &random_;
    const bool may_fail_;
    FreezableDisk disk_;
    std::vector<std::shared_ptr<Frozen>> frozen_;
};

// Frozen disks that threads begin, read and end.
class Shared {
public:
    void add(std::shared_ptr<Frozen> frozen)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        frozen_.push_back(std::move(frozen));
    }
    std::shared_ptr<Frozen> pick(Random &random)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        return frozen_.empty() ? nullptr : frozen_[random.below(frozen_.size())];
    }
    std::shared_ptr<Frozen> take(Random &random)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (frozen_.empty())
            return nullptr;
        std::swap(frozen_[random.below(frozen_.size())], frozen_.back());
        auto taken = frozen_.back();
        frozen_.pop_back();
        return taken;
    }
    void note(const std::string &wrong)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (first_wrong_.empty())
            first_wrong_ = wrong;
    }
    std::string first_wrong() const { return first_wrong_; }
    bool anything_wrong() const
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        return !first_wrong_.empty();
    }

private:
    mutable std::mutex mutex_;
    std::vector<std::shared_ptr<Frozen>> frozen_;
    std::string first_wrong_;
};

void read_on(Shared &shared, Random random, const std::atomic<bool> &stop)
{
    while (!stop && !shared.anything_wrong()) {
        const auto frozen = shared.pick(random);
        if (!frozen) {
            std::this_thread::yield();
            continue;
        }
        const Range range = random.range(frozen->disk->size(), frozen->disk->size(), block);
        shared.note(wrong_bytes(*frozen, range));
        if (random.one_in(4))
            shared.note(wrong_extents(*frozen, range));
    }
}

void begin_and_end(FreezableDisk &disk, Shared &shared, Random random,
                   const std::atomic<bool> &stop)
{
    unsigned running = 0;
    while (!stop && !shared.anything_wrong()) {
        if (running < 4 && random.one_in(3)) {
            shared.add(freeze(disk, random, true));
            ++running;
        } else if (random.one_in(3)) {
            if (const auto ended = shared.take(random)) {
                ended->ended = true;
                disk.frozen.thaw(*ended->disk);
                --running;
            }
        } else if (random.one_in(20)) {
            disk.grow(disk.inner.size() + 512);
        } else {
            disk.frozen.tidy();
        }
        std::this_thread::yield();
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(F1_F2_F3_as_copies, *one_thread())
{
    for (const std::uint64_t seed : seeds(60)) {
        SEEDED(seed);
        Random random(seed);
        Model model(random, 512 * random.between(1, 600), random.coin());
        for (int step = 0; step < 250; ++step)
            model.step();
        model.look_at_all();
        model.end_all();
        BOOST_TEST(MemoryScratch::alive == 0);
    }
}

BOOST_AUTO_TEST_CASE(F1_F2_F3_under_threads)
{
    for (const std::uint64_t seed : seeds(6)) {
        SEEDED(seed);
        FreezableDisk disk(24 * block + 512, std::chrono::minutes(1));
        disk.inner.stirrer.stir(seed);
        Shared shared;
        std::atomic<bool> stop{false};
        std::vector<std::thread> writers, others;
        for (unsigned t = 0; t < 3; ++t)
            writers.emplace_back([&, t] {
                Random random(seed * 100 + t);
                for (int i = 0; i < 1500 && !shared.anything_wrong(); ++i)
                    change(disk, random);
            });
        for (unsigned t = 0; t < 2; ++t)
            others.emplace_back([&, t] { read_on(shared, Random(seed * 100 + 10 + t), stop); });
        others.emplace_back([&] { begin_and_end(disk, shared, Random(seed * 100 + 20), stop); });
        for (std::thread &thread : writers)
            thread.join();
        stop = true;
        for (std::thread &thread : others)
            thread.join();
        Random random(seed);
        while (const auto frozen = shared.take(random)) {
            shared.note(wrong_bytes(*frozen, {0, frozen->disk->size()}));
            disk.frozen.thaw(*frozen->disk);
        }
        BOOST_TEST(shared.first_wrong() == "");
        BOOST_TEST(MemoryScratch::alive == 0);
    }
}

BOOST_AUTO_TEST_SUITE_END()
