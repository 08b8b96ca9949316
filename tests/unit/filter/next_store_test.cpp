// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/next_store.h"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string_view>
#include <thread>

#include "tests/support/must.h"
#include "tests/support/random.h"
#include "tests/unit/filter/fake_nbdkit.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(next_store_test)

namespace {

std::unique_ptr<NextStore> opened(FakeLayer &layer, bool serialised = false)
{
    return must(NextStore::open(layer.backend(), false, serialised));
}

bool was_called(FakeLayer &layer, const std::string &call)
{
    return std::ranges::any_of(layer.calls,
                               [&](const std::string &each) { return each.starts_with(call); });
}

}  // namespace

// Against flat bytes, over layers of every block size, of even and odd length.
BOOST_DATA_TEST_CASE(requests_of_any_size_and_place,
                     data::make({1, 2, 16, 512}) * data::make({65536, 65000, 100}), minimum, size)
{
    for (const std::uint64_t seed : seeds(5)) {
        SEEDED(seed);
        Random random(seed);
        FakeMemory memory(static_cast<std::uint64_t>(size));
        FakeLayer layer(memory);
        layer.minimum = static_cast<std::uint32_t>(minimum);
        layer.preferred = 512;
        layer.maximum = 4096;
        layer.zeroes = random.pick({NBDKIT_ZERO_NONE, NBDKIT_ZERO_EMULATE, NBDKIT_ZERO_NATIVE});
        const auto store = opened(layer);
        Buffer model(memory.size());
        for (int step = 0; step < 300; ++step) {
            const Range range = random.range(model.size(), 20000, 512);
            Buffer bytes(range.length(), static_cast<std::uint8_t>(step | 1));
            switch (random.below(3)) {
            case 0:
                must(store->write(range.begin, bytes));
                std::ranges::copy(bytes, model.begin() + static_cast<std::ptrdiff_t>(range.begin));
                break;
            case 1:
                must(store->zero(range.begin, range.length(), random.coin()));
                std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(range.begin),
                            range.length(), 0);
                break;
            default:
                must(store->read(range.begin, bytes));
                BOOST_REQUIRE(
                    std::ranges::equal(bytes, sub(Bytes(model), range.begin, range.length())));
            }
        }
        BOOST_REQUIRE(memory.bytes == model);
    }
}

BOOST_AUTO_TEST_CASE(past_the_end_there_are_zeros_and_no_space)
{
    FakeMemory memory(1000);
    memory.bytes.assign(1000, 5);
    FakeLayer layer(memory);
    const auto store = opened(layer);
    Buffer bytes(100, 7);
    must(store->read(950, bytes));
    BOOST_CHECK(bytes[49] == 5 && all_zero(sub(Bytes(bytes), 50, 50)));
    bytes.assign(100, 7);
    must(store->read(1000, bytes));
    BOOST_CHECK(all_zero(bytes));
    BOOST_CHECK(store->write(901, bytes).error().code == Errc::no_space);
    BOOST_CHECK(store->zero(1000, 1, true).error().code == Errc::no_space);
    BOOST_CHECK(store->discard(UINT64_MAX, 2).error().code == Errc::no_space);
    BOOST_CHECK(memory.bytes == Buffer(1000, 5));
    BOOST_CHECK(!store->can_grow());
    BOOST_CHECK(store->grow(2000).error().code == Errc::no_space);
    must(store->grow(1000));
    BOOST_CHECK_GE(store->fresh_from(), 1000);
}

// The fake layer aborts at a larger one.
BOOST_AUTO_TEST_CASE(no_request_is_larger_than_32_MiB, *one_thread())
{
    FakeMemory memory(100 << 20);
    FakeLayer layer(memory);
    const auto store = opened(layer);
    Buffer bytes(70 << 20);
    must(store->read(1, bytes));
    must(store->write(1, bytes));
    must(store->zero(1, 99 << 20, true));
    must(store->discard(1, 99 << 20));
    // Up to where a sector ends, then as much as may be.
    BOOST_CHECK(was_called(layer, "trim 0x1 +33554431"));
    BOOST_CHECK(was_called(layer, "trim 0x2000000 +33554432"));
    BOOST_CHECK(was_called(layer, "zero-trim 0x1 +33554431"));
}

BOOST_AUTO_TEST_CASE(holes_only_where_they_are_welcome)
{
    FakeMemory memory(8192);
    FakeLayer layer(memory);
    const auto store = opened(layer);
    must(store->zero(0, 4096, false));
    must(store->zero(4096, 4096, true));
    BOOST_CHECK(was_called(layer, "zero 0x0 +4096"));
    BOOST_CHECK(was_called(layer, "zero-trim 0x1000 +4096"));
}

BOOST_AUTO_TEST_CASE(holes_of_the_layer_are_told)
{
    FakeMemory memory(16384);
    FakeLayer layer(memory);
    layer.hole = Range{4096, 12288};
    layer.minimum = 512;
    layer.maximum = 4096;
    const auto store = opened(layer);
    const auto is = [&](std::uint64_t offset, std::uint64_t length_max, std::uint64_t length,
                        bool hole) {
        const auto stretch = store->stretch(offset, length_max);
        return stretch.length == length && stretch.hole == hole;
    };
    BOOST_TEST(is(0, 16384, 4096, false));
    BOOST_TEST(is(4100, 16384 - 4100, 12288 - 4100, true));
    BOOST_TEST(is(4100, 10, 10, true));
    BOOST_TEST(is(12288, 4096, 4096, false));
    BOOST_TEST(is(12288, 1 << 20, 4096, false));
    BOOST_TEST(is(16384, 100, 100, false));
    layer.before = [](const char *, const Range &) { return EIO; };
    BOOST_TEST(is(4096, 100, 100, false));
}

BOOST_AUTO_TEST_CASE(what_the_layer_cannot_do_is_not_asked_of_it)
{
    FakeMemory memory(8192);
    memory.bytes.assign(8192, 1);
    FakeLayer layer(memory);
    layer.trims = layer.flushes = false;
    layer.zeroes = NBDKIT_ZERO_NONE;
    const auto store = opened(layer);
    BOOST_CHECK(!store->can_flush());
    must(store->discard(0, 8192));
    must(store->flush());
    must(store->zero(0, 8192, true));
    BOOST_CHECK(memory.bytes == Buffer(8192));
}

// With blocks, a part of one is not trimmed: the rest of it is in use.
BOOST_AUTO_TEST_CASE(only_whole_blocks_are_trimmed)
{
    FakeMemory memory(8192);
    FakeLayer layer(memory);
    layer.minimum = layer.preferred = 512;
    layer.maximum = UINT32_MAX;
    const auto store = opened(layer);
    layer.calls.clear();
    must(store->discard(100, 1000));
    BOOST_CHECK((layer.calls == std::vector<std::string>{"trim 0x200 +512"}));
}

BOOST_AUTO_TEST_CASE(large_blocks_are_refused_with_the_filter_that_helps)
{
    FakeMemory memory(8192);
    FakeLayer layer(memory);
    layer.minimum = 4096;
    layer.preferred = layer.maximum = 4096;
    const auto store = NextStore::open(layer.backend(), false, false);
    BOOST_REQUIRE(!store);
    BOOST_CHECK(store.error().code == Errc::unsupported);
    BOOST_CHECK_NE(store.error().what.find("--filter=blocksize"), std::string::npos);
    BOOST_CHECK_EQUAL(layer.contexts_open, 0);
}

BOOST_AUTO_TEST_CASE(errors_of_the_layer_keep_their_meaning_and_name_the_place)
{
    FakeMemory memory(8192);
    FakeLayer layer(memory);
    const auto store = opened(layer);
    int cause = ENOSPC;
    layer.before = [&](const char *, const Range &) { return cause; };
    Buffer bytes(512);
    const Result<void> full = store->write(4096, bytes);
    BOOST_CHECK(full.error().code == Errc::no_space);
    BOOST_CHECK_NE(full.error().what.find("0x1000"), std::string::npos);
    cause = EIO;
    BOOST_CHECK(store->write(0, bytes).error().code == Errc::io);
    BOOST_CHECK(store->read(0, bytes).error().code == Errc::io);
    BOOST_CHECK(store->zero(0, 1, true).error().code == Errc::io);
    BOOST_CHECK(store->discard(0, 1).error().code == Errc::io);
}

BOOST_AUTO_TEST_CASE(a_flush_that_failed_stays_failed)
{
    FakeMemory memory(8192);
    FakeLayer layer(memory);
    const auto store = opened(layer);
    must(store->flush());
    layer.before = [](const char *call, const Range &) {
        return std::string(call) == "flush" ? EIO : 0;
    };
    BOOST_CHECK(!store->flush());
    layer.before = nullptr;
    BOOST_CHECK(!store->flush());
}

// The kernel tells of bytes that could not be written back to one of those who
// ask at the same time. Here to the first, who hears of it last.
BOOST_AUTO_TEST_CASE(no_flush_succeeds_while_another_one_fails)
{
    FakeMemory memory(8192);
    FakeLayer layer(memory);
    const auto store = opened(layer);
    std::atomic<unsigned> flushes = 0;
    std::atomic<bool> second_has_returned = false;
    layer.before = [&](const char *call, const Range &) {
        if (std::string_view(call) != "flush" || ++flushes != 1)
            return 0;
        for (int i = 0; i < 100 && !second_has_returned; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        return EIO;
    };
    bool first_succeeded = true;
    std::thread first([&] { first_succeeded = store->flush().has_value(); });
    while (flushes == 0)
        std::this_thread::yield();
    BOOST_TEST(!store->flush());
    second_has_returned = true;
    first.join();
    BOOST_TEST(!first_succeeded);
}

BOOST_AUTO_TEST_CASE(a_read_only_server_opens_the_layer_for_reading)
{
    FakeMemory memory(8192);
    FakeLayer layer(memory);
    const auto store = must(NextStore::open(layer.backend(), true, false));
    BOOST_CHECK(store->read_only());
    must(store->flush());
    BOOST_CHECK_EQUAL(layer.flushes_done, 0);
}

// Bytes of one block written by many at once: none is lost.
BOOST_AUTO_TEST_CASE(parts_of_one_block_written_at_once)
{
    for (const bool serialised : {false, true}) {
        FakeMemory memory(512);
        FakeLayer layer(memory);
        layer.minimum = layer.preferred = layer.maximum = 512;
        const auto store = opened(layer, serialised);
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < 4; ++i) {
            threads.emplace_back([&store, i] {
                for (unsigned n = 0; n < 128; ++n) {
                    const std::uint8_t byte = 0xff;
                    if (!store->write(i + 4 * n, Bytes(&byte, 1)))
                        std::abort();
                }
            });
        }
        for (std::thread &thread : threads)
            thread.join();
        BOOST_CHECK(memory.bytes == Buffer(512, 0xff));
    }
}

// A part of a block is read, changed and written; before it is written, somebody
// else is given some time to change the whole block. What he wrote stays.
BOOST_AUTO_TEST_CASE(a_part_of_a_block_against_the_whole)
{
    using Change = std::function<Result<void>(NextStore &)>;
    const Change write = [](NextStore &store) { return store.write(0, Buffer(1024)); };
    const Change zero = [](NextStore &store) { return store.zero(0, 1024, true); };
    for (const Change &change : {write, zero}) {
        FakeMemory memory(1024);
        memory.bytes.assign(1024, 1);
        FakeLayer layer(memory);
        layer.minimum = layer.preferred = 512;
        layer.maximum = 4096;
        const auto store = opened(layer);
        std::thread other;
        std::atomic<bool> other_has_returned = false;
        const auto part_thread = std::this_thread::get_id();
        layer.before = [&](const char *call, const Range &) {
            if (std::this_thread::get_id() != part_thread || std::string_view(call) != "pwrite")
                return 0;
            other = std::thread([&] {
                if (!change(*store))
                    std::abort();
                other_has_returned = true;
            });
            for (int i = 0; i < 50 && !other_has_returned; ++i)
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
            return 0;
        };
        must(store->write(0, Buffer(1, 7)));
        other.join();
        BOOST_TEST(all_zero(sub(Bytes(memory.bytes), 1, 1023)));
    }
}

// The same of a trim, whose bytes nobody knows: it is not done in between.
BOOST_AUTO_TEST_CASE(a_part_of_a_block_against_a_trim)
{
    FakeMemory memory(512);
    FakeLayer layer(memory);
    layer.minimum = layer.preferred = layer.maximum = 512;
    const auto store = opened(layer);
    std::thread other;
    bool trimmed_between = false;
    const auto part_thread = std::this_thread::get_id();
    layer.before = [&](const char *call, const Range &) {
        if (std::this_thread::get_id() == part_thread && std::string_view(call) == "pwrite") {
            other = std::thread([&] {
                if (!store->discard(0, 512))
                    std::abort();
            });
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            trimmed_between = was_called(layer, "trim");
        }
        return 0;
    };
    must(store->write(0, Buffer(1, 7)));
    other.join();
    BOOST_TEST(!trimmed_between);
    BOOST_TEST(was_called(layer, "trim"));
}

BOOST_AUTO_TEST_CASE(what_takes_long_ends_with_the_server_and_nothing_else_does)
{
    FakeMemory memory(1 << 20);
    FakeLayer layer(memory);
    const auto store = opened(layer);
    Buffer bytes(512);
    struct ToldToEnd {
        ToldToEnd() { told_to_end = true; }
        ~ToldToEnd() { told_to_end = false; }
    } told;
    must(store->read(0, bytes));
    {
        const ServerEnd::Scope scope;
        BOOST_CHECK(store->read(0, bytes).error().code == Errc::shut_down);
        BOOST_CHECK(store->write(0, bytes).error().code == Errc::shut_down);
        // Somebody else's request.
        std::thread([&] { must(store->write(0, bytes)); }).join();
    }
    must(store->write(0, bytes));
}

BOOST_AUTO_TEST_CASE(a_serialised_layer_is_called_once_at_a_time)
{
    FakeMemory memory(1 << 20);
    FakeLayer layer(memory);
    layer.before = [](const char *, const Range &) {
        std::this_thread::yield();
        return 0;
    };
    const auto store = opened(layer, true);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; ++i) {
        threads.emplace_back([&store, i] {
            Buffer bytes(4096);
            for (unsigned n = 0; n < 50; ++n) {
                if (!store->write(i * 65536, bytes) || !store->read(i * 65536, bytes) ||
                    !store->flush())
                    std::abort();
            }
        });
    }
    for (std::thread &thread : threads)
        thread.join();
    BOOST_CHECK_EQUAL(layer.calls_at_once_max, 1);
}

BOOST_AUTO_TEST_SUITE_END()
