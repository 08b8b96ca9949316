// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/create.h"

#include <boost/test/unit_test.hpp>

#include "core/check/check.h"
#include "core/disk.h"
#include "tests/support/crash_store.h"
#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(create)

namespace {

constexpr std::uint64_t size = 1 << 30, sector = 512;

StoreImage created(std::uint64_t disk_size)
{
    MemoryStore store(0);
    must(create_image(store, disk_size));
    return store.image();
}

// A store with holes, which counts what is read of it.
class Sparse final : public ByteStore {
public:
    Sparse(std::uint64_t length, Range data) : data_(data), store_(length) {}

    std::uint64_t size() const override { return store_.size(); }
    std::uint64_t fresh_from() const override { return store_.fresh_from(); }
    Result<void> read(std::uint64_t o, MutableBytes b) override
    {
        bytes_read += b.size();
        return store_.read(o, b);
    }
    Stretch stretch(std::uint64_t o, std::uint64_t n) override
    {
        if (o >= data_.end)
            return {n, true};
        return o < data_.begin ? Stretch{std::min(n, data_.begin - o), true}
                               : Stretch{std::min(n, data_.end - o), false};
    }
    Result<void> write(std::uint64_t o, Bytes b) override { return store_.write(o, b); }
    Result<void> zero(std::uint64_t o, std::uint64_t n, bool u) override
    {
        return store_.zero(o, n, u);
    }
    Result<void> discard(std::uint64_t o, std::uint64_t n) override { return store_.discard(o, n); }
    Result<void> flush() override { return {}; }
    bool can_flush() const override { return true; }
    Result<void> grow(std::uint64_t n) override { return store_.grow(n); }
    bool can_grow() const override { return true; }
    Result<void> cut(std::uint64_t n) override { return store_.cut(n); }
    bool read_only() const override { return false; }

    std::uint64_t bytes_read = 0;

private:
    const Range data_;
    MemoryStore store_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(what_a_power_cut_or_a_kill_leaves_is_made_anew)
{
    for (const std::uint64_t length : {std::uint64_t(0), std::uint64_t(64) << 20}) {
        CrashStore store(Life::of({{}, length}), StoreOptions{.growth_step = 1 << 20});
        must(create_image(store, size));
        CrashWalk walk(store);
        unsigned begun = 0, whole = 0;
        for (std::uint64_t event = 0; event <= walk.events(); ++event) {
            walk.advance_to(event);
            for (unsigned draw = 0; draw < 30; ++draw) {
                Random random(event * 1000 + draw);
                MemoryStore left(draw == 0 ? walk.kept(random).cache : walk.power_cut(random));
                Buffer header(sector);
                must(left.read(0, header));
                if (all_zero(header)) {
                    BOOST_REQUIRE(must(is_empty(left, size)));
                    must(create_image(left, size));
                    ++begun;
                } else {
                    BOOST_REQUIRE(!must(is_empty(left, size)));
                    ++whole;
                }
                BOOST_REQUIRE(must(check(left)).sound());
                BOOST_REQUIRE_EQUAL(must(Disk::open(left, {}))->size(), size);
            }
        }
        BOOST_TEST((begun > 100 && whole > 10));
    }
}

BOOST_AUTO_TEST_CASE(nothing_else_is_taken_for_that)
{
    const StoreImage image = created(size);
    MemoryStore whole(image);
    BOOST_TEST(!must(is_empty(whole, size)));

    // Without its header it is, but for the same tables only, and not if one bit
    // is another, wherever it is, nor with something behind it.
    MemoryStore store(image);
    must(store.write(0, Buffer(sector)));
    BOOST_TEST(must(is_empty(store, size)));
    BOOST_TEST(must(is_empty(store, size + sector)));
    BOOST_TEST(!must(is_empty(store, size << 13)));  // a longer L1 table
    for (const std::uint64_t at : {std::uint64_t(0), sector - 1, sector, std::uint64_t(65536),
                                   image.size / 2, image.size - 1}) {
        Buffer byte(1), other(1);
        must(store.read(at, byte));
        other[0] = byte[0] ^ 2;
        must(store.write(at, other));
        BOOST_TEST(!must(is_empty(store, size)), at);
        must(store.write(at, byte));
    }
    must(store.grow(image.size + 1));
    BOOST_TEST(must(is_empty(store, size)));
    must(store.write(image.size, Buffer(1, 1)));
    BOOST_TEST(!must(is_empty(store, size)));
}

BOOST_AUTO_TEST_CASE(holes_are_not_read)
{
    Sparse nothing(std::uint64_t(1) << 50, {});
    BOOST_TEST(must(is_empty(nothing, size)));
    BOOST_TEST(nothing.bytes_read <= 1u << 20);

    Sparse something(std::uint64_t(1) << 50, {1000000001, 1000000003});
    BOOST_TEST(must(is_empty(something, size)));
    must(something.write(1000000002, Buffer(1, 1)));
    BOOST_TEST(!must(is_empty(something, size)));
    BOOST_TEST(something.bytes_read <= 16u << 20);
}

BOOST_AUTO_TEST_SUITE_END()
