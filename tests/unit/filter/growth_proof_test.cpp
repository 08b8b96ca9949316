// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The file grows where it is proven which file it is, and nowhere else: a case
// for each way in which the right size alone would have fooled us.

#include "tests/unit/filter/served_file.h"

#include <sys/resource.h>
#include <unistd.h>

#include "tests/support/random.h"
#include "tests/unit/filter/failing_calls.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(growth_test)

namespace {

// A layer over the file that is not the file: what is put in its own place.
struct Overlay : FakeFile {
    using FakeFile::FakeFile;
    int write(std::uint64_t, Bytes) override { return 0; }
};
struct Scrambler : FakeFile {
    using FakeFile::FakeFile;
    int read(std::uint64_t offset, MutableBytes to) override
    {
        const int cause = FakeFile::read(offset, to);
        for (std::uint8_t &byte : to)
            byte ^= 0x55;
        return cause;
    }
};

// Grows nowhere, and the file keeps every byte.
void check_fixed(Served &served, FakeBytes &bytes)
{
    FakeLayer layer(bytes);
    {
        const auto store = must(NextStore::open(layer.backend(), false, false, served.local.get()));
        store->allow_growth(*served.local);
        const std::uint64_t size = store->size();
        BOOST_CHECK(store->grow(size + 64 * K).error().code == Errc::no_space);
        BOOST_CHECK(!store->can_grow());
        BOOST_CHECK_EQUAL(store->size(), size);
        BOOST_CHECK_GE(store->fresh_from(), size);
        must(store->cut(0));
    }
    served.check_untouched();
    said();
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_overlay_that_has_the_file_open_for_writing)
{
    Served served(200 * K);
    Overlay overlay(served.file.path(), true);
    check_fixed(served, overlay);
}

BOOST_AUTO_TEST_CASE(a_layer_that_changes_bytes)
{
    Served served(200 * K);
    Scrambler scrambler(served.file.path(), true);
    check_fixed(served, scrambler);
}

BOOST_AUTO_TEST_CASE(a_layer_of_the_same_size_that_is_elsewhere)
{
    Served served(200 * K);
    FakeMemory memory(200 * K);
    check_fixed(served, memory);
}

// The two ends are the same, and the file is open for writing, by somebody.
BOOST_AUTO_TEST_CASE(a_copy_of_the_file)
{
    Served served(200 * K);
    const TemporaryFile copy(0);
    FakeFile bytes(copy.path(), true);
    BOOST_REQUIRE_EQUAL(bytes.write(0, served.before), 0);
    check_fixed(served, bytes);
    BOOST_CHECK(copy.content() == served.before);
}

BOOST_AUTO_TEST_CASE(a_file_that_the_layer_has_open_for_reading_only)
{
    const TemporaryFile file(200 * K);
    FakeFile bytes(file.path(), false);
    FakeLayer layer(bytes);
    const auto local = must(LocalFile::open(file.path()));
    const auto store = must(NextStore::open(layer.backend(), false, false));
    store->allow_growth(*local);
    BOOST_CHECK(!store->can_grow());
}

BOOST_AUTO_TEST_CASE(a_layer_that_keeps_its_size)
{
    Served served(200 * K);
    served.layer.size_is = 200 * K;
    {
        const auto store = served.open();
        BOOST_CHECK(store->can_grow());
        BOOST_CHECK(store->grow(M).error().code == Errc::no_space);
        BOOST_CHECK(!store->can_grow());
        must(store->write(0, Bytes(served.before).first(K)));  // the old one goes on
    }
    served.check_untouched();
}

// The descriptor proves which file it is. Its name is another one, or leads to
// another file; what was added is reached all the same, and nothing else is touched.
BOOST_AUTO_TEST_CASE(A4_a_file_grows_under_any_name)
{
    for (const bool replaced : {true, false}) {
        Served served(200 * K + 8);
        const TemporaryFile other(0);
        BOOST_REQUIRE_EQUAL(FakeFile(other.path(), true).write(0, served.before), 0);
        const std::string name = served.file.path(), kept = name + ".kept";
        Buffer model;
        {
            const auto store = served.open();
            BOOST_REQUIRE_EQUAL(::rename(name.c_str(), kept.c_str()), 0);
            if (replaced)
                BOOST_REQUIRE_EQUAL(::rename(other.path().c_str(), name.c_str()), 0);
            must(store->grow(M));
            BOOST_CHECK(store->can_grow());
            BOOST_CHECK_EQUAL(store->size(), served.bytes.size());
            BOOST_CHECK_EQUAL(store->fresh_from(), 200 * K + 8);
            model = served.before;
            model.resize(store->size());
            // On both sides of the end that the layer sees, and across it.
            for (const std::uint64_t seed : seeds(1)) {
                Random random(seed);
                for (int step = 0; step < 300; ++step) {
                    const Range range = random.range(400 * K, 50000, 512);
                    Buffer bytes(range.length(), static_cast<std::uint8_t>(step | 1));
                    switch (random.below(4)) {
                    case 0: must(store->write(range.begin, bytes)); break;
                    case 1: must(store->write_durable(range.begin, bytes)); break;
                    case 2:
                        must(store->zero(range.begin, range.length(), random.coin()));
                        bytes.assign(bytes.size(), 0);
                        break;
                    default:
                        must(store->read(range.begin, bytes));
                        BOOST_REQUIRE(std::ranges::equal(
                            bytes, sub(Bytes(model), range.begin, range.length())));
                        continue;
                    }
                    std::ranges::copy(bytes,
                                      model.begin() + static_cast<std::ptrdiff_t>(range.begin));
                }
            }
            must(store->discard(199 * K, 2 * K));
            must(store->read(199 * K, sub(MutableBytes(model), 199 * K, 2 * K)));
            BOOST_CHECK(store->write(store->size() - 1, Buffer(2)).error().code == Errc::no_space);
            must(store->flush());
            // And once more.
            must(store->grow(store->size() + 1));
            must(store->write(store->size() - 1, Buffer(1, 7)));
            model.resize(store->size());
            model.back() = 7;
            must(store->flush());
            BOOST_CHECK_EQUAL(served.layer.contexts_open, 1);
        }
        Buffer found(model.size());
        BOOST_REQUIRE_EQUAL(served.bytes.read(0, found), 0);
        BOOST_CHECK(found == model);
        BOOST_CHECK_EQUAL(served.bytes.size(), model.size());
        if (replaced)
            served.check_untouched();  // what has the name now
        ::unlink(kept.c_str());
    }
}

// So where the layer cannot be opened anew because there is no descriptor left: the
// proof needs none, and nothing is concluded from that.
BOOST_AUTO_TEST_CASE(B6_a_file_grows_without_a_new_descriptor)
{
    Served served(200 * K);
    const auto store = served.open();
    rlimit before;
    BOOST_REQUIRE_EQUAL(::getrlimit(RLIMIT_NOFILE, &before), 0);
    rlimit few = before;
    few.rlim_cur = 200;
    BOOST_REQUIRE_EQUAL(::setrlimit(RLIMIT_NOFILE, &few), 0);
    std::vector<int> all;
    for (int descriptor; (descriptor = ::dup(0)) != -1;)
        all.push_back(descriptor);
    BOOST_REQUIRE_EQUAL(errno, EMFILE);
    const Result<void> grown = store->grow(M);
    const Result<void> written = store->write(M - K, Buffer(K, 9));
    const Result<void> flushed = store->flush();
    for (const int descriptor : all)
        ::close(descriptor);
    BOOST_REQUIRE_EQUAL(::setrlimit(RLIMIT_NOFILE, &before), 0);
    must(grown);
    must(written);
    must(flushed);
    BOOST_CHECK(store->can_grow());
    BOOST_CHECK_EQUAL(served.file.content()[M - 1], 9);
    must(store->grow(9 * M));
}

// "Could not be found out" is not "is not so", whatever kept it from being found out: the
// file does not grow now, or by another way, and grows when the trouble has passed.
BOOST_AUTO_TEST_CASE(B6_what_cannot_be_found_out_now_ends_no_growth)
{
    struct Trouble {
        Call call;
        int cause;
        unsigned nth;
    };
    for (const auto &[call, cause, nth] : {Trouble{Call::opendir, ENFILE, 1},
                                           {Call::opendir, ENOMEM, 1},
                                           {Call::opendir, EINTR, 1},
                                           {Call::readdir, ENOMEM, 1},
                                           {Call::readdir, ENOMEM, 4},
                                           {Call::fstat, ESTALE, 1},
                                           {Call::fstat, EIO, 1}})
        BOOST_TEST_CONTEXT("call " << static_cast<int>(call) << ", errno " << cause << ", from the "
                                   << nth << ". on")
        {
            Served served(200 * K);
            const auto store = served.open();
            {
                const FailingCall failing(call, cause, nth);
                if (const Result<void> grown = store->grow(M); !grown)
                    BOOST_CHECK(grown.error().code != Errc::unsupported);
                BOOST_CHECK(store->can_grow());
            }
            must(store->grow(2 * M));
            // And from the first question on.
            std::unique_ptr<NextStore> late;
            {
                const FailingCall failing(call, cause, nth);
                late = served.open();
                BOOST_CHECK(late->can_grow());
            }
            must(late->grow(4 * M));
        }
}

// The layer serves a copy, and somebody has the file open. Wherever the first count was
// cut short: a descriptor that only the second one saw is not the layer's.
BOOST_AUTO_TEST_CASE(A4_an_old_descriptor_that_is_seen_late_is_not_a_new_one)
{
    for (unsigned missed = 1; missed < 30; ++missed) {
        Served served(200 * K);
        const TemporaryFile copy(0);
        FakeFile bytes(copy.path(), true);
        BOOST_REQUIRE_EQUAL(bytes.write(0, served.before), 0);
        FakeLayer layer(bytes);
        std::unique_ptr<NextStore> store;
        {
            const FailingCall failing(Call::fstat, ESTALE, 1, missed);
            store = must(NextStore::open(layer.backend(), false, false, served.local.get()));
        }
        store->allow_growth(*served.local);
        BOOST_CHECK(!store->grow(M));
        served.check_untouched();
        said();
    }
}

// It was not seen to be this very file that the layer opened, or their bytes could not be
// compared: then only a new context proves it.
BOOST_AUTO_TEST_CASE(A4_what_was_not_seen_to_be_the_file_is_not_reached_beyond)
{
    for (const bool seen : {false, true})
        BOOST_TEST_CONTEXT((seen ? "bytes not compared" : "not seen to open it"))
        {
            Served served(200 * K);
            const std::string kept = served.file.path() + ".kept";
            const auto store = must(NextStore::open(served.layer.backend(), false, false,
                                                    seen ? served.local.get() : nullptr));
            if (seen)
                served.layer.before = [](const char *call, const Range &) {
                    return std::string_view(call) == "pread" ? EIO : 0;
                };
            store->allow_growth(*served.local);
            served.layer.before = nullptr;
            BOOST_REQUIRE_EQUAL(::rename(served.file.path().c_str(), kept.c_str()), 0);
            const Result<void> grown = store->grow(M);
            BOOST_REQUIRE(!grown);
            BOOST_CHECK(grown.error().code == Errc::no_space);
            BOOST_CHECK_EQUAL(served.bytes.size(), 200 * K);
            // Not now is not never.
            BOOST_REQUIRE_EQUAL(::rename(kept.c_str(), served.file.path().c_str()), 0);
            must(store->grow(M));
        }
}

BOOST_AUTO_TEST_SUITE_END()
