// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The simulator has to be right before it may judge others.

#include "tests/support/crash_store.h"

#include <set>

#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(crash_store)

namespace {

Buffer sector(std::uint8_t value) { return Buffer(sector_size, value); }

Life empty_file(std::uint64_t size) { return Life::of({{}, size}); }

std::uint8_t at(const StoreImage &image, std::uint64_t offset)
{
    return image.bytes.copy(offset, 1)[0];
}

// The values that a byte has over many draws of a power cut at an event.
std::set<int> outcomes(const CrashStore &store, std::uint64_t event, std::uint64_t offset)
{
    CrashWalk walk(store);
    walk.advance_to(event);
    std::set<int> values;
    Random random(1);
    for (int i = 0; i < 300; ++i)
        values.insert(at(walk.power_cut(random), offset));
    return values;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_write_without_flush_is_there_or_not)
{
    CrashStore store(empty_file(4096));
    must(store.write(512, sector(7)));
    BOOST_TEST((outcomes(store, store.now(), 512) == std::set<int>{0, 7}));
    BOOST_TEST((outcomes(store, store.now(), 0) == std::set<int>{0}));
    // Before it began.
    BOOST_TEST((outcomes(store, 0, 512) == std::set<int>{0}));
    // While it was under way.
    BOOST_TEST((outcomes(store, 1, 512) == std::set<int>{0, 7}));
}

BOOST_AUTO_TEST_CASE(a_flushed_write_is_there)
{
    CrashStore store(empty_file(4096));
    must(store.write(512, sector(7)));
    must(store.flush());
    BOOST_TEST((outcomes(store, store.now(), 512) == std::set<int>{7}));
    // The flush had begun and not returned.
    BOOST_TEST((outcomes(store, store.now() - 1, 512) == std::set<int>{0, 7}));
}

BOOST_AUTO_TEST_CASE(a_flush_that_began_before_the_write_returned_is_nothing_to_it)
{
    // As a second thread would do it: the recording is what counts.
    MemoryStore memory(4096);
    RecordingStore recording(memory);
    class FlushInside final : public ByteStore {
    public:
        FlushInside(MemoryStore &memory) : memory(memory) {}
        std::uint64_t size() const override { return memory.size(); }
        std::uint64_t fresh_from() const override { return memory.fresh_from(); }
        Result<void> read(std::uint64_t o, MutableBytes b) override { return memory.read(o, b); }
        Result<void> write(std::uint64_t o, Bytes b) override
        {
            TRY(memory.write(o, b));
            return above->flush();
        }
        Result<void> zero(std::uint64_t, std::uint64_t, bool) override { return {}; }
        Result<void> discard(std::uint64_t, std::uint64_t) override { return {}; }
        Result<void> flush() override { return {}; }
        bool can_flush() const override { return true; }
        Result<void> grow(std::uint64_t) override { return {}; }
        bool can_grow() const override { return false; }
        Result<void> cut(std::uint64_t) override { return {}; }
        bool read_only() const override { return false; }
        MemoryStore &memory;
        ByteStore *above = nullptr;
    } inside(memory);
    RecordingStore outside(inside);
    inside.above = &outside;
    must(outside.write(0, sector(1)));
    const Recording seen = outside.recording();
    BOOST_REQUIRE_EQUAL(seen.operations.size(), 2u);
    BOOST_TEST((seen.operations[1].kind == Operation::Kind::flush));
    BOOST_TEST(!seen.is_durable(seen.operations[0], Operation::never));
    must(outside.flush());
    const Recording later = outside.recording();
    BOOST_TEST(later.is_durable(later.operations[0], Operation::never));
}

BOOST_AUTO_TEST_CASE(overlapping_writes_leave_any_of_their_states)
{
    CrashStore store(empty_file(4096));
    must(store.write(0, sector(1)));
    must(store.write(0, sector(2)));
    must(store.write(0, sector(3)));
    BOOST_TEST((outcomes(store, store.now(), 0) == std::set<int>{0, 1, 2, 3}));
}

BOOST_AUTO_TEST_CASE(writes_are_reordered)
{
    CrashStore store(empty_file(4096));
    must(store.write(0, sector(1)));
    must(store.write(512, sector(2)));
    CrashWalk walk(store);
    walk.advance_to(walk.events());
    BOOST_TEST(walk.pending() == 2u);
    Random random(1);
    bool only_second = false;
    for (int i = 0; i < 100; ++i) {
        const StoreImage image = walk.power_cut(random);
        only_second = only_second || (at(image, 0) == 0 && at(image, 512) == 2);
    }
    BOOST_TEST(only_second);
}

BOOST_AUTO_TEST_CASE(a_write_is_torn_between_sectors_and_nowhere_else)
{
    CrashStore store(empty_file(4096));
    must(store.write(100, Buffer(1000, 9)));
    CrashWalk walk(store);
    walk.advance_to(walk.events());
    Random random(1);
    bool torn = false;
    for (int i = 0; i < 200; ++i) {
        const StoreImage image = walk.power_cut(random);
        BOOST_REQUIRE(at(image, 99) == 0);
        BOOST_REQUIRE(at(image, 1100) == 0);
        BOOST_REQUIRE(at(image, 100) == at(image, 511));
        BOOST_REQUIRE(at(image, 512) == at(image, 1023));
        BOOST_REQUIRE(at(image, 1024) == at(image, 1099));
        torn = torn || at(image, 100) != at(image, 512);
    }
    BOOST_TEST(torn);
}

BOOST_AUTO_TEST_CASE(an_older_write_does_not_come_back_over_a_durable_one)
{
    CrashStore store(empty_file(4096));
    must(store.write(0, sector(1)));
    must(store.write_durable(0, sector(2)));
    BOOST_TEST((outcomes(store, store.now(), 0) == std::set<int>{2}));
}

BOOST_AUTO_TEST_CASE(write_durable_makes_nothing_else_durable)
{
    CrashStore store(empty_file(4096));
    must(store.write(512, sector(1)));
    must(store.write_durable(0, sector(2)));
    BOOST_TEST((outcomes(store, store.now(), 0) == std::set<int>{2}));
    BOOST_TEST((outcomes(store, store.now(), 512) == std::set<int>{0, 1}));
}

BOOST_AUTO_TEST_CASE(after_a_failed_flush_nothing_written_before_is_believed)
{
    CrashStore store(empty_file(4096));
    must(store.write(512, sector(1)));
    store.flush_faults().arm({.kinds = Fault::flushes});
    BOOST_TEST(!store.flush());
    must(store.flush());
    BOOST_TEST((outcomes(store, store.now(), 512) == std::set<int>{0, 1}));
    must(store.write(512, sector(2)));
    must(store.flush());
    BOOST_TEST((outcomes(store, store.now(), 512) == std::set<int>{2}));
}

BOOST_AUTO_TEST_CASE(a_growth_may_be_lost_with_what_stands_behind)
{
    CrashStore store(empty_file(1000));
    must(store.grow(4096));
    must(store.write(2048, sector(5)));
    CrashWalk walk(store);
    walk.advance_to(walk.events());
    Random random(1);
    std::set<std::uint64_t> sizes;
    for (int i = 0; i < 300; ++i) {
        const StoreImage image = walk.power_cut(random);
        sizes.insert(image.size);
        if (image.size == 1000)
            BOOST_REQUIRE(at(image, 2048) == 0);
    }
    BOOST_TEST((sizes == std::set<std::uint64_t>{1000, 4096}));
    must(store.flush());
    BOOST_TEST((outcomes(store, store.now(), 2048) == std::set<int>{5}));
    CrashWalk after(store);
    after.advance_to(after.events());
    BOOST_TEST(after.power_cut(random, CrashMode::none).size == 4096u);
}

BOOST_AUTO_TEST_CASE(what_was_cut_off_does_not_come_back)
{
    CrashStore store(empty_file(1024));
    must(store.grow(4096));
    must(store.write(2048, sector(5)));
    must(store.cut(1024));
    must(store.grow(4096));
    must(store.flush());
    BOOST_TEST((outcomes(store, store.now(), 2048) == std::set<int>{0}));
    Buffer byte(1);
    must(store.read(2048, byte));
    BOOST_TEST(byte[0] == 0);
}

BOOST_AUTO_TEST_CASE(zero_and_discard_may_be_lost_like_a_write)
{
    SparseBytes bytes;
    bytes.write(0, Buffer(8192, 3));
    CrashStore store(Life::of({bytes, 8192}));
    must(store.zero(100, 2000, true));
    BOOST_TEST((outcomes(store, store.now(), 100) == std::set<int>{0, 3}));
    BOOST_TEST((outcomes(store, store.now(), 1024) == std::set<int>{0, 3}));
    BOOST_TEST((outcomes(store, store.now(), 99) == std::set<int>{3}));
    BOOST_TEST((outcomes(store, store.now(), 2100) == std::set<int>{3}));
    must(store.discard(4096, 4096));
    BOOST_TEST((outcomes(store, store.now(), 5000) == std::set<int>{3, 0xdb}));
    must(store.flush());
    BOOST_TEST((outcomes(store, store.now(), 1024) == std::set<int>{0}));
    BOOST_TEST((outcomes(store, store.now(), 5000) == std::set<int>{0xdb}));
}

BOOST_AUTO_TEST_CASE(a_kill_keeps_what_was_written_but_makes_it_no_more_durable)
{
    CrashStore first(empty_file(4096));
    must(first.write(0, sector(1)));
    must(first.flush());
    must(first.write(512, sector(2)));
    CrashWalk walk(first);
    walk.advance_to(walk.events());
    Random random(1);

    CrashStore second(walk.kept(random));
    Buffer byte(1);
    must(second.read(512, byte));
    BOOST_TEST(byte[0] == 2);
    must(second.write(1024, sector(3)));
    BOOST_TEST((outcomes(second, second.now(), 0) == std::set<int>{1}));
    BOOST_TEST((outcomes(second, second.now(), 512) == std::set<int>{0, 2}));
    BOOST_TEST((outcomes(second, second.now(), 1024) == std::set<int>{0, 3}));
    must(second.flush());
    BOOST_TEST((outcomes(second, second.now(), 512) == std::set<int>{2}));
    BOOST_TEST((outcomes(second, second.now(), 1024) == std::set<int>{3}));
}

// A state is a choice for each sector between the versions it had since it was
// durable: against a model that keeps them all.
BOOST_AUTO_TEST_CASE(every_state_is_one_that_a_model_allows)
{
    for (const std::uint64_t seed : seeds(30)) {
        SEEDED(seed);
        Random random(seed);
        constexpr std::uint64_t sectors = 12;
        CrashStore store(empty_file(sectors * sector_size));
        std::vector<std::set<int>> allowed(sectors, {0});
        std::vector<int> now(sectors, 0);
        for (int step = 1; step < 60; ++step) {
            const std::uint64_t first = random.below(sectors);
            const std::uint64_t end = random.between(first + 1, sectors);
            const bool alone = random.one_in(8);
            if (random.one_in(6)) {
                must(store.flush());
                for (std::uint64_t s = 0; s < sectors; ++s)
                    allowed[s] = {now[s]};
            } else {
                const Buffer data((end - first) * sector_size, step);
                must(alone ? store.write_durable(first * sector_size, data)
                           : store.write(first * sector_size, data));
                for (std::uint64_t s = first; s < end; ++s) {
                    now[s] = step;
                    if (alone)
                        allowed[s].clear();
                    allowed[s].insert(step);
                }
            }
        }
        CrashWalk walk(store);
        walk.advance_to(walk.events());
        std::vector<std::set<int>> seen(sectors);
        for (int i = 0; i < 400; ++i) {
            const StoreImage image = walk.power_cut(random);
            for (std::uint64_t s = 0; s < sectors; ++s)
                seen[s].insert(at(image, s * sector_size + 17));
        }
        for (std::uint64_t s = 0; s < sectors; ++s)
            BOOST_REQUIRE(seen[s] == allowed[s]);
        BOOST_REQUIRE(store.image().bytes == walk.power_cut(random, CrashMode::all).bytes);
    }
}

BOOST_AUTO_TEST_SUITE_END()
