// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/local_store.h"

#include <boost/test/unit_test.hpp>

#include <sys/stat.h>

#include "core/base/range.h"
#include "filter/local_file.h"
#include "tests/support/must.h"
#include "tests/unit/filter/fake_nbdkit.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(local_store)

namespace {

struct Held {
    explicit Held(std::uint64_t size)
        : file(size),
          local(must(LocalFile::open(file.path()))),
          store(*local, must(local->length()))
    {
    }

    const TemporaryFile file;
    const std::unique_ptr<LocalFile> local;
    LocalStore store;
};

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_written_is_in_the_file_and_behind_its_end_are_zeros)
{
    Held held(1000);
    BOOST_TEST(!held.store.read_only());
    must(held.store.write(10, Buffer(980, 7)));
    must(held.store.flush());
    BOOST_TEST(held.file.content()[10] == 7);
    Buffer bytes(100, 9);
    must(held.store.read(950, bytes));
    BOOST_TEST((bytes[0] == 7 && bytes[39] == 7 && bytes[40] == 0 && bytes[99] == 0));
    BOOST_TEST((held.store.write(990, Buffer(11, 1)).error().code == Errc::no_space));
    BOOST_TEST((held.store.discard(990, 11).error().code == Errc::no_space));
    must(held.store.zero(20, 900, true));
    must(held.store.read(0, bytes));
    BOOST_TEST((bytes[19] == 7 && bytes[20] == 0));
    BOOST_TEST(held.file.size() == 1000u);
}

BOOST_AUTO_TEST_CASE(it_grows_and_is_cut_to_what_it_was_at_most)
{
    Held held(1000);
    must(held.store.grow(70000));
    BOOST_TEST(held.store.size() == 70000u);
    BOOST_TEST(held.file.size() == 70000u);
    BOOST_TEST(held.store.fresh_from() == 1000u);
    must(held.store.grow(5000));
    BOOST_TEST(held.store.size() == 70000u);
    must(held.store.cut(3000));
    BOOST_TEST(held.store.size() == 3000u);
    must(held.store.cut(10));
    BOOST_TEST(held.file.size() == 1000u);
    must(held.store.shorten(10));
    BOOST_TEST(held.file.size() == 10u);
    BOOST_TEST(held.store.size() == 10u);
}

BOOST_AUTO_TEST_CASE(a_discard_is_a_hole_where_there_are_holes)
{
    Held held(1 << 20);
    must(held.store.write(0, Buffer(1 << 20, 7)));
    must(held.store.flush());
    const auto discarded = held.store.discard(65536, 131072);
    if (!discarded) {
        BOOST_TEST((discarded.error().code == Errc::unsupported));
        return;
    }
    Buffer bytes(131072, 9);
    must(held.store.read(65536, bytes));
    BOOST_TEST(all_zero(bytes));
    must(held.store.read(65536 - 1, MutableBytes(bytes).first(1)));
    BOOST_TEST(bytes[0] == 7);
    BOOST_TEST(held.store.size() == 1u << 20);
}

namespace {

std::uint64_t room(const Held &held)
{
    struct stat status;
    BOOST_REQUIRE_EQUAL(::stat(held.file.path().c_str(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

}  // namespace

BOOST_AUTO_TEST_CASE(zeros_take_room_only_where_they_shall)
{
    Held held(1 << 20);
    must(held.store.write(0, Buffer(1 << 20, 7)));
    must(held.store.flush());
    if (!held.store.discard(0, 65536)) {
        BOOST_TEST_MESSAGE("no holes here");
        return;
    }
    must(held.store.write(0, Buffer(65536, 7)));
    must(held.store.flush());
    const std::uint64_t before = room(held);
    must(held.store.zero(65536 + 10, 131072, false));
    must(held.store.flush());
    BOOST_TEST(room(held) >= before);
    must(held.store.zero(524288 - 10, 262144, true));
    must(held.store.flush());
    BOOST_TEST(room(held) <= before - 262144 + 8192);
    Buffer bytes(1 << 20);
    must(held.store.read(0, bytes));
    for (const Range zeros : {Range::of(65536 + 10, 131072), Range::of(524288 - 10, 262144)}) {
        BOOST_TEST(all_zero(sub(Bytes(bytes), zeros.begin, zeros.length())));
        BOOST_TEST((bytes[zeros.begin - 1] == 7 && bytes[zeros.end] == 7));
    }
    BOOST_TEST((held.store.zero((1 << 20) - 1, 2, true).error().code == Errc::no_space));
    BOOST_TEST(held.store.size() == 1u << 20);
}

BOOST_AUTO_TEST_CASE(it_knows_where_holes_are)
{
    Held held(1 << 20);
    must(held.store.write(262144, Buffer(65536, 7)));
    const auto begin = held.store.stretch(0, 1 << 20);
    if (!begin.hole) {
        BOOST_TEST_MESSAGE("no holes here");
        return;
    }
    BOOST_TEST(begin.length == 262144u);
    BOOST_TEST((held.store.stretch(0, 100).length == 100 && held.store.stretch(1000, 100).hole));
    const auto data = held.store.stretch(262144 + 100, 1 << 20);
    BOOST_TEST((!data.hole && data.length == 65536 - 100));
    BOOST_TEST(
        (held.store.stretch(262144, 10).length == 10 && !held.store.stretch(262144, 10).hole));
    const auto end = held.store.stretch(262144 + 65536, 100000);
    BOOST_TEST((end.hole && end.length == 100000));
}

BOOST_AUTO_TEST_SUITE_END()
