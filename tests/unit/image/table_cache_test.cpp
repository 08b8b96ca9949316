// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/table_cache.h"

#include <boost/test/unit_test.hpp>

#include <algorithm>

#include "tests/support/memory_store.h"

using namespace qcow2;
using namespace qcow2::test;

namespace {

constexpr std::uint64_t piece_bytes = 4096;

class CountedStore : public MemoryStore {
public:
    using MemoryStore::MemoryStore;
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        ++reads;
        return MemoryStore::read(offset, bytes);
    }
    Result<void> write(std::uint64_t offset, Bytes bytes) override
    {
        ++writes;
        return MemoryStore::write(offset, bytes);
    }
    unsigned reads = 0, writes = 0;
};

struct Fixture {
    CountedStore store{256 * piece_bytes};
    TableCache cache{store, Rank::mapping, piece_bytes, 32 * piece_bytes};

    void change(std::uint64_t piece, std::uint8_t value)
    {
        const HostOffset place(piece * piece_bytes);
        Locked lock(cache.mutex);
        const MutableBytes bytes = cache.get(place).value();
        cache.before_change(place);
        std::ranges::fill(bytes, value);
    }
    TableCache::Sealed seal()
    {
        Locked lock(cache.mutex);
        return cache.seal();
    }
    void unseal(const TableCache::Sealed &sealed, bool written)
    {
        Locked lock(cache.mutex);
        cache.unseal(sealed, written);
    }
    // All of it is this.
    bool in_store(std::uint64_t piece, std::uint8_t value)
    {
        Buffer bytes(piece_bytes);
        BOOST_REQUIRE(store.read(piece * piece_bytes, bytes).has_value());
        return std::ranges::count(bytes, value) == std::ptrdiff_t(piece_bytes);
    }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(table_cache, Fixture)

BOOST_AUTO_TEST_CASE(neighbours_are_written_together)
{
    for (const std::uint64_t piece : {5, 4, 9, 6})
        change(piece, 1);
    const TableCache::Sealed sealed = seal();
    BOOST_TEST(sealed == (TableCache::Sealed{4, 5, 6, 9}), boost::test_tools::per_element());
    BOOST_TEST(cache.dirty_bytes() == 0u);
    BOOST_REQUIRE(cache.write(sealed).has_value());
    unseal(sealed, true);
    BOOST_TEST(store.writes == 2u);
    for (const std::uint64_t piece : {4, 5, 6, 9})
        BOOST_TEST(in_store(piece, 1));
    BOOST_TEST(seal().empty());
}

// W2: what is made durable before a write-back is what was sealed, and no more.
BOOST_AUTO_TEST_CASE(what_changes_meanwhile_goes_down_as_it_was)
{
    change(1, 1);
    change(2, 1);
    const TableCache::Sealed sealed = seal();
    change(1, 2);
    change(1, 3);
    change(3, 3);
    BOOST_TEST(cache.dirty_bytes() == 2 * piece_bytes);
    BOOST_REQUIRE(cache.write(sealed).has_value());
    unseal(sealed, true);
    BOOST_TEST(in_store(1, 1));
    BOOST_TEST(in_store(2, 1));
    BOOST_TEST(in_store(3, 0));

    const TableCache::Sealed next = seal();
    BOOST_TEST(next == (TableCache::Sealed{1, 3}), boost::test_tools::per_element());
    BOOST_REQUIRE(cache.write(next).has_value());
    unseal(next, true);
    BOOST_TEST(in_store(1, 3));
    BOOST_TEST(in_store(3, 3));
}

BOOST_AUTO_TEST_CASE(what_was_not_written_is_dirty)
{
    change(1, 1);
    change(2, 1);
    const TableCache::Sealed sealed = seal();
    change(1, 2);
    unseal(sealed, false);
    BOOST_TEST(cache.dirty_bytes() == 2 * piece_bytes);
    const TableCache::Sealed again = seal();
    BOOST_REQUIRE(cache.write(again).has_value());
    unseal(again, true);
    BOOST_TEST(in_store(1, 2));
    BOOST_TEST(in_store(2, 1));
}

// Dirty pieces take their part of the capacity, and stay.
BOOST_AUTO_TEST_CASE(dirty_pieces_count)
{
    for (std::uint64_t piece = 0; piece < 16; ++piece)
        change(piece, 1);
    const auto look = [this](std::uint64_t piece) {
        Locked lock(cache.mutex);
        BOOST_REQUIRE(cache.get(HostOffset(piece * piece_bytes)).has_value());
    };
    for (std::uint64_t piece = 100; piece < 200; ++piece)
        look(piece);
    const unsigned before = store.reads;
    for (std::uint64_t piece = 0; piece < 16; ++piece)
        look(piece);
    for (std::uint64_t piece = 184; piece < 200; ++piece)
        look(piece);
    BOOST_TEST(store.reads == before);
    look(183);
    BOOST_TEST(store.reads == before + 1);
}

// Where those that are written and those that are dirty take all of the capacity,
// what is loaded stays for the one who loads it.
BOOST_AUTO_TEST_CASE(there_is_room_beside_pieces_that_are_written)
{
    for (std::uint64_t piece = 0; piece < 20; ++piece)
        change(piece, 1);
    const TableCache::Sealed sealed = seal();
    for (std::uint64_t piece = 20; piece < 40; ++piece)
        change(piece, 1);
    const unsigned before = store.reads;
    {
        Locked lock(cache.mutex);
        BOOST_REQUIRE(cache.get(HostOffset(100 * piece_bytes)).has_value());
    }
    BOOST_TEST(store.reads == before + 1);
    BOOST_REQUIRE(cache.write(sealed).has_value());
    unseal(sealed, true);
}

BOOST_AUTO_TEST_SUITE_END()
