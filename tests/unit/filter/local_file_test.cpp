// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/local_file.h"
#include "filter/local_store.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/support/must.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/filter/failing_calls.h"
#include "tests/unit/filter/fake_nbdkit.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(local_file_test)

BOOST_AUTO_TEST_CASE(what_is_no_file_is_refused)
{
    BOOST_CHECK(LocalFile::open("/nonexistent/file").error().code == Errc::not_found);
    BOOST_CHECK(LocalFile::open("/").error().code == Errc::invalid);
    BOOST_CHECK(LocalFile::open("/dev/null").error().code == Errc::invalid);
    // A pipe, which would wait for somebody at its other end.
    const TemporaryFile file(0);
    const std::string pipe = file.path() + ".pipe";
    BOOST_REQUIRE_EQUAL(::mkfifo(pipe.c_str(), 0600), 0);
    BOOST_CHECK(LocalFile::open(pipe).error().code == Errc::invalid);
    ::unlink(pipe.c_str());
}

// A signal is no reason to take a file for one that may not be written.
BOOST_AUTO_TEST_CASE(B6_an_open_that_a_signal_interrupts_is_tried_again)
{
    const TemporaryFile file(512);
    const FailingCall failing(Call::open, EINTR, 1, 3);
    BOOST_CHECK(must(LocalFile::open(file.path()))->writable());
}

// What a path was when it was checked is not what it is when it is opened.
BOOST_AUTO_TEST_CASE(no_link_is_followed_below_a_directory)
{
    const TemporaryFolder temporary;
    const std::string &folder = temporary.path();
    std::filesystem::create_directories(folder + "/in/sub");
    std::filesystem::create_directory(folder + "/out");
    for (const char *name : {"/in/sub/file", "/out/file"})
        std::ofstream(folder + name) << "x";
    const int directory = ::open((folder + "/in").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    BOOST_REQUIRE(directory != -1);
    const auto open = [&](const std::string &rest) {
        return LocalFile::open_beneath(directory, rest, folder + "/in/" + rest, false);
    };
    BOOST_CHECK(open("sub/file"));
    // Somebody puts a link in the place of the folder, then of the file.
    std::filesystem::rename(folder + "/in/sub", folder + "/in/moved");
    std::filesystem::create_symlink("../out", folder + "/in/sub");
    BOOST_CHECK(!open("sub/file"));
    std::filesystem::remove(folder + "/in/sub");
    std::filesystem::create_symlink("moved", folder + "/in/sub");
    BOOST_CHECK(!open("sub/file"));
    BOOST_CHECK(open("moved/file"));
    std::filesystem::remove(folder + "/in/moved/file");
    std::filesystem::create_symlink(folder + "/out/file", folder + "/in/moved/file");
    BOOST_CHECK(!open("moved/file"));
    // Nor is the directory left in other ways.
    BOOST_CHECK(!open("../out/file"));
    BOOST_CHECK(!open(folder + "/out/file"));
    // What was opened stays open, even if the directory gets another name.
    std::filesystem::rename(folder + "/in", folder + "/elsewhere");
    std::ofstream(folder + "/elsewhere/new") << "x";
    BOOST_CHECK(open("new"));
    ::close(directory);
}

BOOST_AUTO_TEST_CASE(a_file_that_is_replaced_is_noticed)
{
    const TemporaryFile file(1000), other(1000);
    const auto local = must(LocalFile::open(file.path()));
    BOOST_CHECK(local->regular() && local->writable() && local->still_named());
    BOOST_REQUIRE_EQUAL(::rename(other.path().c_str(), file.path().c_str()), 0);
    BOOST_CHECK(!local->still_named());
    BOOST_CHECK_EQUAL(must(local->length()), 1000);
}

BOOST_AUTO_TEST_CASE(two_nodes_of_one_block_device_are_the_same)
{
    struct stat node {
    }, other{};
    node.st_mode = other.st_mode = S_IFBLK | 0600;
    node.st_dev = other.st_dev = 5;
    node.st_ino = 100;
    other.st_ino = 101;
    node.st_rdev = other.st_rdev = 0x700;
    BOOST_TEST(LocalFile::identity_of(node) == LocalFile::identity_of(other));
    other.st_rdev = 0x701;
    other.st_ino = node.st_ino;
    BOOST_TEST(LocalFile::identity_of(node) != LocalFile::identity_of(other));
    // Of files it is the inode that counts, also if it has a device's number.
    node.st_mode = other.st_mode = S_IFREG | 0600;
    other.st_ino = 101;
    other.st_rdev = node.st_rdev;
    BOOST_TEST(LocalFile::identity_of(node) != LocalFile::identity_of(other));
}

BOOST_AUTO_TEST_CASE(how_the_layer_holds_it)
{
    const TemporaryFile file(10);
    const auto local = must(LocalFile::open(file.path()));
    BOOST_CHECK(local->held_by_layer() == LocalFile::Held::no);
    const FakeFile reader(file.path(), false);
    BOOST_CHECK(local->held_by_layer() == LocalFile::Held::for_reading);
    {
        const FakeFile writer(file.path(), true);
        BOOST_CHECK(local->held_by_layer() == LocalFile::Held::for_writing);
    }
    BOOST_CHECK(local->held_by_layer() == LocalFile::Held::for_reading);
}

BOOST_AUTO_TEST_CASE(a_limit_of_the_process_is_lack_of_space_and_no_signal)
{
    const TemporaryFile file(10), longer(3 << 20);
    const auto local = must(LocalFile::open(file.path()));
    rlimit before;
    BOOST_REQUIRE_EQUAL(::getrlimit(RLIMIT_FSIZE, &before), 0);
    rlimit lower = before;
    lower.rlim_cur = 1 << 20;
    BOOST_REQUIRE_EQUAL(::setrlimit(RLIMIT_FSIZE, &lower), 0);
    const Result<void> grown = local->truncate((1 << 20) + 1);
    // What is longer already may become shorter.
    const Result<void> cut = must(LocalFile::open(longer.path()))->truncate(2 << 20);
    ::setrlimit(RLIMIT_FSIZE, &before);
    BOOST_REQUIRE(!grown);
    BOOST_CHECK(grown.error().code == Errc::no_space);
    BOOST_TEST(grown.error().what ==
               file.path() + ": the limit of this process for files (ulimit -f): File too large");
    BOOST_CHECK(cut);
    BOOST_CHECK_EQUAL(longer.size(), 2 << 20);
    must(local->truncate(1 << 20));
    BOOST_CHECK_EQUAL(file.size(), 1 << 20);
}

BOOST_AUTO_TEST_CASE(the_store_over_it_reads_zeros_past_the_end_and_cannot_write)
{
    const TemporaryFile file(1000);
    must(LocalFile::open(file.path()))->writable();
    Buffer ones(1000, 1);
    BOOST_REQUIRE_EQUAL(FakeFile(file.path(), true).write(0, ones), 0);
    const auto local = must(LocalFile::open(file.path()));
    const auto store = must(ReadOnlyLocalStore::open(*local, false));
    BOOST_CHECK_EQUAL(store->size(), 1000);
    BOOST_CHECK(!store->read_only() && !store->can_grow());
    Buffer bytes(100, 7);
    must(store->read(950, bytes));
    BOOST_CHECK(bytes[49] == 1 && bytes[50] == 0 && bytes[99] == 0);
    bytes.assign(100, 7);
    must(store->read(1u << 30, bytes));
    BOOST_CHECK(all_zero(bytes));
    BOOST_CHECK(store->write(0, bytes).error().code == Errc::read_only);
    BOOST_CHECK(store->zero(0, 1, true).error().code == Errc::read_only);
    BOOST_CHECK(store->discard(0, 1).error().code == Errc::read_only);
    BOOST_CHECK(store->grow(2000).error().code == Errc::read_only);
    BOOST_CHECK(file.content() == ones);
}

BOOST_AUTO_TEST_SUITE_END()
