// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/report.h"

#include <boost/test/unit_test.hpp>

#include <cerrno>
#include <vector>

#include "tests/unit/filter/fake_nbdkit.h"

using namespace qcow2;
using namespace qcow2::test;

namespace {

constexpr Errc all_codes[] = {Errc::io,        Errc::no_space, Errc::corrupt,   Errc::unsupported, Errc::read_only,
                              Errc::busy,      Errc::not_found, Errc::exists,   Errc::invalid};

}  // namespace

BOOST_AUTO_TEST_SUITE(report_test)

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
    BOOST_CHECK_EQUAL(serve(&err, []() -> Result<void> { return Error(Errc::no_space, "100% full"); }), -1);
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

BOOST_AUTO_TEST_CASE(warnings_are_errors_that_say_so)
{
    said();
    log_to_nbdkit(LogLevel::warning, "50% of it");
    log_to_nbdkit(LogLevel::debug, "nobody hears this");
    BOOST_CHECK((said() == std::vector<std::string>{"warning: 50% of it"}));
}

BOOST_AUTO_TEST_SUITE_END()
