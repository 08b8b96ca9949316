// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/messages.h"

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "tests/unit/filter/failing_calls.h"
#include "tests/unit/filter/fake_nbdkit.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(report_test)

namespace {

constexpr Errc all_codes[] = {Errc::io,          Errc::no_space,  Errc::corrupt,
                              Errc::unsupported, Errc::read_only, Errc::busy,
                              Errc::not_found,   Errc::exists,    Errc::invalid};

// What is written there as long as this lives.
class StandardError {
public:
    StandardError() : was_(::dup(STDERR_FILENO)), file_(::open(kept_.path().c_str(), O_RDWR))
    {
        BOOST_REQUIRE(was_ != -1 && file_ != -1 && ::dup2(file_, STDERR_FILENO) != -1);
    }
    ~StandardError()
    {
        ::dup2(was_, STDERR_FILENO);
        ::close(was_);
        ::close(file_);
    }
    StandardError(const StandardError &) = delete;
    StandardError &operator=(const StandardError &) = delete;

    std::string text() const
    {
        const Buffer bytes = kept_.content();
        return std::string(bytes.begin(), bytes.end());
    }

private:
    const TemporaryFile kept_{0};
    const int was_, file_;
};

}  // namespace

// nbdkit asserts both.
BOOST_AUTO_TEST_CASE(no_errno_is_0_or_ENOTSUP)
{
    for (const Errc code : all_codes) {
        BOOST_CHECK_NE(to_errno(code), 0);
        BOOST_CHECK_NE(to_errno(code), ENOTSUP);
        BOOST_CHECK_NE(to_errno(code), EOPNOTSUPP);
    }
    BOOST_CHECK_EQUAL(to_errno(Errc::no_space), ENOSPC);
}

BOOST_AUTO_TEST_CASE(a_failure_is_said_and_sets_errno)
{
    said();
    int err = 0;
    BOOST_CHECK_EQUAL(
        serve(&err, []() -> Result<void> { return Error(Errc::no_space, "100% full"); }), -1);
    BOOST_CHECK_EQUAL(err, ENOSPC);
    BOOST_CHECK((said() == std::vector<std::string>{"100% full"}));
    BOOST_CHECK_EQUAL(run([]() -> Result<void> { return Error(Errc::busy, "held"); }), -1);
    BOOST_CHECK((said() == std::vector<std::string>{"held"}));
}

BOOST_AUTO_TEST_CASE(success_says_nothing)
{
    said();
    int err = 7;
    BOOST_CHECK_EQUAL(serve(&err, [] { return Result<void>(); }), 0);
    BOOST_CHECK_EQUAL(err, 7);
    BOOST_CHECK(said().empty());
}

BOOST_AUTO_TEST_CASE(exceptions_stop)
{
    int err = 0;
    BOOST_CHECK_EQUAL(serve(&err, []() -> Result<void> { throw std::bad_alloc(); }), -1);
    BOOST_CHECK_EQUAL(err, EIO);
    BOOST_CHECK_EQUAL(run([]() -> Result<void> { throw std::runtime_error("a library's"); }), -1);
    BOOST_CHECK_EQUAL(run([]() -> Result<void> { throw 7; }), -1);
    BOOST_CHECK_EQUAL(answer([]() -> int { throw std::bad_alloc(); }), -1);
    BOOST_CHECK_EQUAL(answer([]() -> std::int64_t { throw 7; }), -1);
    BOOST_CHECK_EQUAL(answer([] { return std::int64_t(1) << 40; }), std::int64_t(1) << 40);
    said();
}

// Not "error: warning: ": nobody has failed.
BOOST_AUTO_TEST_CASE(warnings_are_said_where_nbdkit_says_its_errors)
{
    const auto place = [](const std::vector<std::string> &arguments, bool forked) {
        return static_cast<int>(place_of_warnings(arguments, forked));
    };
    const int stderr_ = static_cast<int>(WarningPlace::standard_error);
    const int syslog_ = static_cast<int>(WarningPlace::system_log);
    // At the prompt; as a daemon; with --run, which forks and has a terminal.
    BOOST_TEST(place({"nbdkit", "file", "x"}, false) == stderr_);
    BOOST_TEST(place({"nbdkit", "file", "x"}, true) == syslog_);
    BOOST_TEST(place({"nbdkit", "--run", "true", "file", "x"}, true) == stderr_);
    for (const bool forked : {false, true}) {
        BOOST_TEST(place({"nbdkit", "--log=stderr", "file", "x"}, forked) == stderr_);
        BOOST_TEST(place({"nbdkit", "-f", "--log=syslog", "file", "x"}, forked) == syslog_);
        BOOST_TEST(place({"nbdkit", "-f", "--log=null", "file", "x"}, forked) ==
                   static_cast<int>(WarningPlace::nowhere));
        BOOST_TEST(place({}, forked) == static_cast<int>(WarningPlace::through_nbdkit));
    }
}

BOOST_AUTO_TEST_CASE(a_warning_reads_right)
{
    said();
    const StandardError output;
    log_to_nbdkit(LogLevel::warning, "50% of it");
    log_to_nbdkit(LogLevel::debug, "nobody hears this");
    BOOST_TEST(output.text() == "nbdkit: qcow2bitmap: warning: 50% of it\n");
    BOOST_CHECK(said().empty());
}

// As a daemon, which forks. (A child here, which has another log than this process.)
BOOST_AUTO_TEST_CASE(a_warning_in_syslog_has_the_priority_of_one)
{
    int ends[2];
    BOOST_REQUIRE_EQUAL(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        log_to_nbdkit(LogLevel::warning, "50% of it");
        const std::string found = std::to_string(system_log().priority) + " " + system_log().text;
        ::_exit(::write(ends[1], found.data(), found.size()) == -1);
    }
    ::close(ends[1]);
    char found[200] = {};
    BOOST_CHECK_NE(::read(ends[0], found, sizeof found - 1), -1);
    ::close(ends[0]);
    int status;
    BOOST_REQUIRE_EQUAL(::waitpid(child, &status, 0), child);
    BOOST_TEST(status == 0);
    BOOST_TEST(found ==
               std::to_string(LOG_DAEMON | LOG_WARNING) + " qcow2bitmap: warning: 50% of it");
}

// The net under what is not quoted: no message makes lines of its own, or paints.
BOOST_AUTO_TEST_CASE(a_message_is_one_line_that_can_be_seen)
{
    said();
    say_error(Error(Errc::io, "a\nnbdkit: error: b\x1b[2J"));
    BOOST_CHECK((said() == std::vector<std::string>{"a\\x0anbdkit: error: b\\x1b[2J"}));
    const StandardError output;
    log_to_nbdkit(LogLevel::warning, "a\nb\xc2\x9b");
    BOOST_TEST(output.text() == "nbdkit: qcow2bitmap: warning: a\\x0ab\\xc2\\x9b\n");
}

BOOST_AUTO_TEST_SUITE_END()
