// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/local_store.h"

#include <boost/test/unit_test.hpp>

#include <sys/stat.h>

#include "filter/local_file.h"
#include "tests/support/must.h"
#include "tests/unit/filter/fake_nbdkit.h"

using namespace qcow2;
using namespace qcow2::test;

namespace {

struct Held {
    explicit Held(std::uint64_t size)
        : file(size), local(must(LocalFile::open(file.path()))), store(*local, must(local->length()))
    {
    }

    const TemporaryFile file;
    const std::unique_ptr<LocalFile> local;
    LocalStore store;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(local_store)

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

BOOST_AUTO_TEST_SUITE_END()
