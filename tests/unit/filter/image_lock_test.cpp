// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Two descriptors of one process keep each other off like two processes: the
// locks belong to the open file description.

#include "filter/image_lock.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <vector>

#include "filter/local_file.h"
#include "tests/support/must.h"
#include "tests/unit/filter/fake_nbdkit.h"

using namespace qcow2;
using namespace qcow2::test;
using Kind = ImageLock::Kind;

BOOST_AUTO_TEST_SUITE(image_lock_test)

namespace {

// One process that has the file.
struct Holder {
    explicit Holder(const TemporaryFile &file)
        : local(must(LocalFile::open(file.path()))), lock(*local)
    {
    }

    const std::unique_ptr<LocalFile> local;
    ImageLock lock;
};

struct flock record_of(int byte, short type)
{
    struct flock record = {};
    record.l_type = type;
    record.l_whence = SEEK_SET;
    record.l_start = byte;
    record.l_len = 1;
    return record;
}

// The bytes that others than the holder see locked.
std::vector<int> locked_bytes(const TemporaryFile &file)
{
    const int descriptor = ::open(file.path().c_str(), O_RDONLY | O_CLOEXEC);
    std::vector<int> bytes;
    for (int byte = 0; byte < 300; ++byte) {
        struct flock record = record_of(byte, F_WRLCK);
        if (::fcntl(descriptor, F_OFD_GETLK, &record) == 0 && record.l_type != F_UNLCK)
            bytes.push_back(byte);
    }
    ::close(descriptor);
    return bytes;
}

const std::vector<int> reader_bytes{100, 201, 203}, writer_bytes{100, 101, 103, 201, 203};

}  // namespace

BOOST_AUTO_TEST_CASE(the_bytes_are_those_of_QEMU)
{
    const TemporaryFile file(10);
    {
        Holder one(file);
        BOOST_CHECK(locked_bytes(file).empty());
        must(one.lock.take(Kind::reader));
        BOOST_CHECK(locked_bytes(file) == reader_bytes);
        must(one.lock.take(Kind::writer));
        BOOST_CHECK(locked_bytes(file) == writer_bytes);
        must(one.lock.take(Kind::reader));
        BOOST_CHECK(locked_bytes(file) == reader_bytes);
        must(one.lock.take(Kind::none));
        BOOST_CHECK(locked_bytes(file).empty());
        must(one.lock.take(Kind::writer));
        BOOST_CHECK(locked_bytes(file) == writer_bytes);
    }
    BOOST_CHECK(locked_bytes(file).empty());
}

BOOST_AUTO_TEST_CASE(readers_share)
{
    const TemporaryFile file(10);
    Holder one(file), two(file);
    must(one.lock.take(Kind::reader));
    must(two.lock.take(Kind::reader));
}

BOOST_AUTO_TEST_CASE(a_writer_keeps_readers_and_writers_off)
{
    const TemporaryFile file(10);
    Holder one(file), two(file);
    must(one.lock.take(Kind::writer));
    for (const Kind kind : {Kind::reader, Kind::writer}) {
        const Result<void> taken = two.lock.take(kind);
        BOOST_REQUIRE(!taken);
        BOOST_CHECK(taken.error().code == Errc::busy);
        BOOST_CHECK_NE(taken.error().what.find("open for writing"), std::string::npos);
        BOOST_CHECK_NE(taken.error().what.find(file.path()), std::string::npos);
    }
    // And nothing of it is left.
    must(one.lock.take(Kind::none));
    BOOST_CHECK(locked_bytes(file).empty());
}

BOOST_AUTO_TEST_CASE(who_cannot_become_a_writer_stays_a_reader)
{
    const TemporaryFile file(10);
    Holder one(file), two(file);
    must(one.lock.take(Kind::reader));
    must(two.lock.take(Kind::reader));
    BOOST_CHECK(two.lock.take(Kind::writer).error().code == Errc::busy);
    BOOST_CHECK(two.lock.kind() == Kind::reader);
    must(one.lock.take(Kind::none));
    BOOST_CHECK(locked_bytes(file) == reader_bytes);
    must(two.lock.take(Kind::writer));
    BOOST_CHECK(locked_bytes(file) == writer_bytes);
}

// Somebody who knows nothing of shared bytes.
BOOST_AUTO_TEST_CASE(an_exclusive_lock_of_others_is_busy)
{
    const TemporaryFile file(10);
    Holder one(file), two(file);
    struct flock all = record_of(0, F_WRLCK);
    all.l_len = 0;
    BOOST_REQUIRE_EQUAL(::fcntl(two.local->descriptor(), F_OFD_SETLK, &all), 0);
    BOOST_CHECK(one.lock.take(Kind::reader).error().code == Errc::busy);
    BOOST_CHECK(one.lock.kind() == Kind::none);
}

// The daemon's parent takes the locks, and ends.
BOOST_AUTO_TEST_CASE(the_locks_survive_the_process_that_took_them)
{
    const TemporaryFile file(10);
    int go[2];
    BOOST_REQUIRE_EQUAL(::pipe(go), 0);
    const pid_t child = ::fork();
    BOOST_REQUIRE_NE(child, -1);
    if (child == 0) {
        auto local = LocalFile::open(file.path());
        ImageLock lock(**local);
        const bool taken = lock.take(Kind::writer).has_value();
        if (::fork() == 0) {  // the daemon
            char c;
            ::close(go[1]);
            [[maybe_unused]] const ssize_t n = ::read(go[0], &c, 1);
            ::_exit(0);
        }
        ::_exit(taken ? 0 : 1);
    }
    int status = -1;
    BOOST_REQUIRE_EQUAL(::waitpid(child, &status, 0), child);
    BOOST_CHECK_EQUAL(status, 0);
    BOOST_CHECK(locked_bytes(file) == writer_bytes);
    ::close(go[0]);
    ::close(go[1]);
    for (int i = 0; i < 500 && !locked_bytes(file).empty(); ++i)
        ::usleep(10000);
    BOOST_CHECK(locked_bytes(file).empty());
}

BOOST_AUTO_TEST_SUITE_END()
