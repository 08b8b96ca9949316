// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/log.h"

#include <boost/test/unit_test.hpp>

#include <string>

using namespace qcow2;

namespace {

std::string said;

void sink(LogLevel level, const std::string &line)
{
    said += (level == LogLevel::debug ? "debug: " : "warning: ") + line + "\n";
}

}  // namespace

BOOST_AUTO_TEST_SUITE(log_)  // log() is the compiler's

BOOST_AUTO_TEST_CASE(nothing_is_said_without_a_sink)
{
    said.clear();
    set_log_sink(nullptr);
    log_debug("a");
    log_warning("b");
    set_log_sink(sink);
    log_debug("c");
    log_warning("d");
    set_log_sink(nullptr);
    log_warning("e");
    BOOST_TEST(said == "debug: c\nwarning: d\n");
}

BOOST_AUTO_TEST_CASE(places_are_hex)
{
    BOOST_TEST(hex(0) == "0x0");
    BOOST_TEST(hex(0x1f000) == "0x1f000");
    BOOST_TEST(hex(~0ull) == "0xffffffffffffffff");
}

BOOST_AUTO_TEST_CASE(names_from_files_do_no_harm_to_a_terminal)
{
    BOOST_TEST(quote("b0") == "'b0'");
    BOOST_TEST(quote("") == "''");
    BOOST_TEST(quote("a b\xc3\xa9") == "'a b\xc3\xa9'");
    BOOST_TEST(quote(std::string("\0\x1b[2J\n'\\\x7f", 9)) == "'\\x00\\x1b[2J\\x0a\\x27\\x5c\\x7f'");
}

BOOST_AUTO_TEST_SUITE_END()
