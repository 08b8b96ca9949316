// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A few bytes are made durable without a flush only where the file itself shows
// that they are in it: a case, over a real file, for each way in which that
// could be a lie.

#include "filter/barrier.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <functional>

#include "filter/next_store.h"
#include "tests/support/must.h"
#include "tests/unit/filter/fake_nbdkit.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(barrier_test)

namespace {

constexpr std::uint64_t K = 1 << 10;

// A file, and what happens to a write on its way.
struct Way : FakeFile {
    using FakeFile::FakeFile;
    int write(std::uint64_t offset, Bytes bytes) override
    {
        if (before)
            before();
        const int cause = lost ? 0 : FakeFile::write(offset + shift, bytes);
        if (after)
            after();
        return cause;
    }
    bool lost = false;  // an overlay, or a cache that writes later
    std::uint64_t shift = 0;
    std::function<void()> before, after;
};

struct Served {
    Served()
        : file(1024 * K),
          way(file.path(), true),
          layer(way),
          local(must(LocalFile::open(file.path())))
    {
        const Buffer content(64 * K, 0x11);
        BOOST_REQUIRE_EQUAL(way.write(0, content), 0);
        store = must(NextStore::open(layer.backend(), false, false));
        store->allow_growth(*local);
        BOOST_REQUIRE(store->durable_alone());
        must(store->flush());
    }

    // True if it took a flush.
    bool flushed(std::uint64_t offset, Bytes bytes)
    {
        const unsigned flushes = layer.flushes_done;
        const std::uint64_t alone = store->durable_alone_count();
        must(store->write_durable(offset, bytes));
        const bool flushed = layer.flushes_done != flushes;
        BOOST_TEST((store->durable_alone_count() != alone) != flushed);
        return flushed;
    }

    const TemporaryFile file;
    Way way;
    FakeLayer layer;
    std::unique_ptr<LocalFile> local;
    std::unique_ptr<NextStore> store;
};

const Buffer new_bytes(512, 0x22);

}  // namespace

BOOST_AUTO_TEST_CASE(a_small_write_needs_no_flush)
{
    Served served;
    BOOST_TEST(!served.flushed(4 * K, new_bytes));
    BOOST_TEST(!served.flushed(8 * K - 256, new_bytes));  // over two pages
    BOOST_TEST(!served.flushed(1024 * K - 512, new_bytes));
    Buffer found(512);
    must(served.local->read(4 * K, found));
    BOOST_TEST((found == new_bytes));
}

// One of them that does not reach this file, and all are flushed.
BOOST_AUTO_TEST_CASE(small_writes_share_a_barrier)
{
    Served served;
    const Buffer other_bytes(4096, 0x44);
    const auto flushed = [&](std::vector<ByteStore::Part> parts) {
        const unsigned flushes = served.layer.flushes_done;
        const std::uint64_t alone = served.store->durable_alone_count();
        must(served.store->write_all_durable(parts));
        BOOST_TEST(served.store->durable_alone_count() - alone <= 1u);
        for (const ByteStore::Part &part : parts) {
            Buffer found(part.bytes.size());
            must(served.local->read(part.offset, found));
            BOOST_TEST((served.way.lost || std::ranges::equal(found, part.bytes)));
        }
        return served.layer.flushes_done != flushes;
    };
    BOOST_TEST(!flushed({{512 * K, other_bytes}, {4 * K, new_bytes}, {8 * K, new_bytes}}));
    BOOST_TEST(flushed({{100 * K, other_bytes}, {4 * K, new_bytes}}));  // is there already
    BOOST_TEST(flushed({{0, Buffer(Barrier::bytes_max + 512, 0x33)}, {200 * K, new_bytes}}));
    served.way.lost = true;
    BOOST_TEST(flushed({{300 * K, other_bytes}, {400 * K, new_bytes}}));
}

BOOST_AUTO_TEST_CASE(the_very_bytes_that_are_there_prove_nothing)
{
    Served served;
    BOOST_TEST(served.flushed(4 * K, Buffer(512, 0x11)));
    BOOST_TEST(!served.flushed(4 * K, new_bytes));
    BOOST_TEST(served.flushed(4 * K, new_bytes));
}

// As under cow or cache: the proof was right when the server began.
BOOST_AUTO_TEST_CASE(a_write_that_goes_elsewhere)
{
    Served served;
    served.way.lost = true;
    BOOST_TEST(served.flushed(4 * K, new_bytes));
    served.way.lost = false;
    served.way.shift = 512;
    BOOST_TEST(served.flushed(8 * K, new_bytes));
}

BOOST_AUTO_TEST_CASE(a_file_that_somebody_shortens)
{
    Served served;
    const auto shorten = [&] {
        BOOST_REQUIRE_EQUAL(::truncate(served.file.path().c_str(), 2 * K), 0);
    };
    served.way.after = shorten;
    BOOST_TEST(served.flushed(4 * K, new_bytes));
    served.way.after = nullptr;
    BOOST_TEST(served.flushed(100 * K, new_bytes));
    // At the last moment: no signal, and no lie that matters, for nothing is
    // left that could be durable.
    Barrier barrier(*served.local);
    shorten();
    must(barrier.make_durable(Range::of(4 * K, 512)));
}

BOOST_AUTO_TEST_CASE(a_descriptor_for_reading_is_not_used)
{
    const TemporaryFile file(64 * K);
    const std::size_t slash = file.path().rfind('/');
    const int directory =
        ::open(file.path().substr(0, slash).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    const auto local =
        must(LocalFile::open_beneath(directory, file.path().substr(slash + 1), file.path(), false));
    ::close(directory);
    BOOST_REQUIRE(!local->writable());
    FakeFile way(file.path(), true);
    FakeLayer layer(way);
    const auto store = must(NextStore::open(layer.backend(), false, false));
    store->allow_growth(*local);
    BOOST_TEST(!store->durable_alone());
    must(store->write_durable(0, new_bytes));
    BOOST_TEST(layer.flushes_done == 1u);
}

// What the file system knows of space that was added is durable with a flush.
BOOST_AUTO_TEST_CASE(space_that_was_added_needs_a_flush_first)
{
    Served served;
    const std::uint64_t end = served.store->size();
    must(served.store->grow(end + 64 * K));
    BOOST_TEST(served.flushed(end, new_bytes));
    BOOST_TEST(!served.flushed(end + 4 * K, new_bytes));
}

BOOST_AUTO_TEST_CASE(nothing_before_the_first_flush)
{
    Served served;
    auto again = must(NextStore::open(served.layer.backend(), false, false));
    again->allow_growth(*served.local);
    must(again->write_durable(4 * K, new_bytes));
    BOOST_TEST(again->durable_alone_count() == 0u);
    must(again->write_durable(8 * K, new_bytes));
    BOOST_TEST(again->durable_alone_count() == 1u);
}

BOOST_AUTO_TEST_CASE(large_writes_are_flushed)
{
    Served served;
    BOOST_TEST(served.flushed(0, Buffer(Barrier::bytes_max + 512, 0x33)));
}

BOOST_AUTO_TEST_CASE(after_a_failed_flush_nothing_is_made_durable)
{
    Served served;
    served.layer.before = [](const char *call, const Range &) {
        return std::string_view(call) == "flush" ? EIO : 0;
    };
    BOOST_TEST(!served.store->flush());
    served.layer.before = nullptr;
    const Result<void> refused = served.store->write_durable(4 * K, new_bytes);
    BOOST_REQUIRE(!refused);
    BOOST_TEST((refused.error().code == Errc::lost));
}

BOOST_AUTO_TEST_CASE(a_write_that_fails_may_be_tried_again)
{
    Served served;
    served.layer.before = [](const char *call, const Range &) {
        return std::string_view(call) == "pwrite" ? EIO : 0;
    };
    const Result<void> failed = served.store->write_durable(4 * K, new_bytes);
    BOOST_REQUIRE(!failed);
    BOOST_TEST((failed.error().code == Errc::io));
    served.layer.before = nullptr;
    BOOST_TEST(!served.flushed(4 * K, new_bytes));
}

BOOST_AUTO_TEST_SUITE_END()
