// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/scratch_file.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "tests/support/must.h"
#include "tests/support/temporary_folder.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(scratch_file_test)

namespace {

constexpr std::uint64_t G = std::uint64_t(1) << 30;

// The environment variable has this value, or none, for the current scope.
class Environment {
public:
    Environment(const char *name, std::optional<std::string> value) : name_(name)
    {
        if (const char *was = std::getenv(name))
            was_ = was;
        set(value);
    }
    ~Environment() { set(was_); }
    Environment(const Environment &) = delete;
    Environment &operator=(const Environment &) = delete;

private:
    void set(const std::optional<std::string> &value) const
    {
        if (value)
            ::setenv(name_, value->c_str(), 1);
        else
            ::unsetenv(name_);
    }

    const char *const name_;
    std::optional<std::string> was_;
};

void expect_bytes(Scratch &scratch, std::uint64_t offset, const Buffer &bytes)
{
    Buffer read(bytes.size());
    must(scratch.read(offset, read));
    BOOST_TEST((read == bytes));
}

}  // namespace

// Also across the ends of files, which would be too long for ext4 as one.
BOOST_AUTO_TEST_CASE(what_was_written_is_read_and_no_name_is_seen)
{
    const TemporaryFolder folder;
    const std::uint64_t size = 64 * 1024 * G;
    const auto scratch = must(ScratchFile::make(folder.path(), size, 1 << 20));
    BOOST_TEST(std::filesystem::is_empty(folder.path()));
    BOOST_TEST(scratch->bytes_used() == 0u);
    for (const std::uint64_t offset :
         {std::uint64_t(0), ScratchFile::file_bytes_max - 4096, size - 8192}) {
        Buffer bytes(8192, std::uint8_t(offset >> 30 | 1));
        bytes[4096] = 7;
        must(scratch->write(offset, bytes));
        expect_bytes(*scratch, offset, bytes);
    }
    BOOST_TEST(scratch->bytes_used() == 3 * 8192u);
    scratch->discard(ScratchFile::file_bytes_max - 4096, 8192);
    BOOST_TEST(scratch->bytes_used() == 2 * 8192u);
    expect_bytes(*scratch, ScratchFile::file_bytes_max - 4096, Buffer(8192));
    expect_bytes(*scratch, 4096, Buffer{7});
}

BOOST_AUTO_TEST_CASE(F2_the_limit_is_one_of_room)
{
    const TemporaryFolder folder;
    const auto scratch = must(ScratchFile::make(folder.path(), G, 10000));
    must(scratch->write(0, Buffer(8192)));
    const auto full = scratch->write(8192, Buffer(4096));
    BOOST_REQUIRE(!full);
    BOOST_CHECK(full.error().code == Errc::no_space);
    BOOST_TEST(full.error().what ==
               "its limit for scratch, 10000 bytes, is reached; qcow2-scratch-max=SIZE sets it");
    scratch->discard(0, 4096);
    must(scratch->write(8192, Buffer(4096)));
}

BOOST_AUTO_TEST_CASE(limits_are_the_least_of_what_is_asked_for_and_set)
{
    const TemporaryFolder folder;
    ScratchFolder maker;
    must(maker.set_directory(folder.path()));
    const auto bytes_max = [&](std::optional<std::uint64_t> asked) {
        const auto scratch = must(maker.make(G, asked));
        return static_cast<const ScratchFile &>(*scratch).bytes_max();
    };
    struct statvfs status;
    BOOST_REQUIRE_EQUAL(::statvfs(folder.path().c_str(), &status), 0);
    const std::uint64_t half = std::uint64_t(status.f_bavail) * status.f_frsize / 2;
    const std::uint64_t got = bytes_max(std::nullopt);
    BOOST_TEST((got > half - half / 8 && got < half + half / 8));  // others write there, too
    BOOST_TEST(bytes_max(2 * G) == 2 * G);
    maker.set_bytes_max(G);
    BOOST_TEST(bytes_max(std::nullopt) == G);
    BOOST_TEST(bytes_max(2 * G) == G);
    BOOST_TEST(bytes_max(1 << 20) == std::uint64_t(1) << 20);
}

BOOST_AUTO_TEST_CASE(F2_it_is_known_whose_room_it_takes)
{
    const TemporaryFolder folder;
    const std::string file = folder.path() + "/disk.qcow2";
    BOOST_REQUIRE(std::fclose(std::fopen(file.c_str(), "w")) == 0);
    ScratchFolder scratch;
    must(scratch.set_directory(folder.path()));
    BOOST_TEST(!scratch.shares_room());  // of no file
    scratch.set_image(file);
    BOOST_TEST(scratch.shares_room());
    for (const char *elsewhere : {"/proc/self/status", "/dev/null", "/nothing"}) {
        scratch.set_image(elsewhere);
        BOOST_TEST(!scratch.shares_room(), elsewhere);
    }
}

// The disk has grown since its backup was prepared.
BOOST_AUTO_TEST_CASE(F2_what_is_behind_its_end_is_an_error)
{
    const TemporaryFolder folder;
    const auto scratch = must(ScratchFile::make(folder.path(), G, G));
    must(scratch->write(G, Buffer(4096)));
    BOOST_TEST(!scratch->write(ScratchFile::file_bytes_max - 4096, Buffer(8192)));
    BOOST_TEST(scratch->bytes_used() == 4096u);
}

BOOST_AUTO_TEST_CASE(the_folder_is_the_one_for_temporary_files)
{
    {
        const Environment none("TMPDIR", std::nullopt);
        BOOST_TEST(ScratchFolder().directory() == "/var/tmp");
    }
    const Environment there("TMPDIR", "/somewhere");
    BOOST_TEST(ScratchFolder().directory() == "/somewhere");
    ScratchFolder folder;
    const auto made = folder.make(G, G);
    BOOST_REQUIRE(!made);
    BOOST_TEST(made.error().what ==
               "/somewhere: no file can be made there: No such file or directory; "
               "qcow2-scratch=DIR names another folder");
    BOOST_CHECK(!folder.make(G, std::nullopt));
}

BOOST_AUTO_TEST_CASE(what_is_no_folder_is_refused)
{
    const TemporaryFolder folder;
    const std::string file = folder.path() + "/file";
    BOOST_REQUIRE(std::fclose(std::fopen(file.c_str(), "w")) == 0);
    ScratchFolder scratch;
    for (const std::string &path : {file, folder.path() + "/nothing", std::string("/proc/self")}) {
        const auto set = scratch.set_directory(path);
        BOOST_REQUIRE_MESSAGE(!set, path);
        BOOST_CHECK(set.error().code == Errc::invalid);
        BOOST_TEST(set.error().what.starts_with(path + ": no file can be made there: "));
    }
    BOOST_TEST(scratch.directory() == ScratchFolder().directory());
}

// A limit for files (ulimit -f) would kill us where we write behind it.
BOOST_AUTO_TEST_CASE(F2_a_limit_for_files_is_told_when_a_backup_begins)
{
    const TemporaryFolder folder;
    rlimit was;
    BOOST_REQUIRE_EQUAL(::getrlimit(RLIMIT_FSIZE, &was), 0);
    const rlimit small{1 << 20, was.rlim_max};
    BOOST_REQUIRE_EQUAL(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const auto made = ScratchFile::make(folder.path(), G, G);
    BOOST_REQUIRE_EQUAL(::setrlimit(RLIMIT_FSIZE, &was), 0);
    BOOST_REQUIRE(!made);
    BOOST_CHECK(made.error().code == Errc::no_space);
    BOOST_TEST(made.error().what.find("ulimit -f") != std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()
