// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/log.h"

#include <boost/test/unit_test.hpp>

#include <cstdio>
#include <cstdlib>
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

BOOST_AUTO_TEST_CASE(of_many_warnings_the_first_are_said)
{
    said.clear();
    set_log_sink(sink);
    std::string expected;
    FewWarnings warnings;
    for (std::size_t i = 0; i < FewWarnings::most; ++i) {
        warnings.say(std::to_string(i));
        expected += "warning: " + std::to_string(i) + "\n";
    }
    BOOST_TEST(said == expected);
    warnings.say("x");
    warnings.say("y");
    BOOST_TEST(said ==
               expected + "warning: and more like these; -v tells of each\ndebug: x\ndebug: y\n");
    set_log_sink(nullptr);
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
    BOOST_TEST(quote("a\\b") == "'a\\b'");
    BOOST_TEST(quote("it's") == "$'it\\'s'");
    BOOST_TEST(quote(std::string("\0\x1b[2J\n'\\\x7f", 9)) == "$'\\x00\\x1b[2J\\x0a\\'\\\\\\x7f'");
    // Controls of the other eight bits, line ends, directions, no width, tags; what is no UTF-8.
    for (const std::string text :
         {"\xc2\x9b", "\xe2\x80\xa8", "\xe2\x80\xae", "\xe2\x81\xa6", "\xe2\x80\x8b",
          "\xef\xbb\xbf", "\xf3\xa0\x81\x81", "\x9b", "\xc3", "\xed\xa0\x80", "\xc0\x8a"}) {
        std::string escaped;
        for (const char byte : text)
            escaped += "\\x" + hex(static_cast<unsigned char>(byte)).substr(2);
        BOOST_TEST(quote("a" + text + "b") == "$'a" + escaped + "b'");
        BOOST_TEST(printable("a" + text + "b") == "a" + escaped + "b");
    }
    BOOST_TEST(printable("it's \xe2\x82\xac 5\n") == "it's \xe2\x82\xac 5\\x0a");
    BOOST_TEST(quote(std::string(quote_bytes_max, 'x')).size() == quote_bytes_max + 2);
    BOOST_TEST(quote(std::string(quote_bytes_max + 7, 'x')) ==
               "'" + std::string(quote_bytes_max, 'x') + "' and 7 bytes more");
}

// For a shell it is the very text again: what is said can be typed.
BOOST_AUTO_TEST_CASE(what_is_quoted_is_what_a_shell_takes_for_the_text)
{
    BOOST_TEST(shell_word("/srv/a-b_c.qcow2") == "/srv/a-b_c.qcow2");
    BOOST_TEST(shell_word("") == "''");
    std::string all;
    for (int byte = 1; byte < 256; ++byte)
        all += static_cast<char>(byte);
    for (const std::string &text :
         {std::string("a b"), std::string("$(touch x)`touch x`"), std::string("*?[a]{b,c}~#!&|;<>"),
          std::string("it's \\ \"both\""), std::string("\xc3\xa4\xe2\x80\xae"),
          std::string("\x1b"
                      "7"),
          all}) {
        for (const std::string &word : {quote(text), shell_word(text)}) {
            const std::string command = "printf %s " + word;
            const std::string script = "exec bash -c \"$COMMAND\"";
            ::setenv("COMMAND", command.c_str(), 1);
            FILE *const shell = ::popen(script.c_str(), "r");
            BOOST_REQUIRE(shell);
            std::string said_by_shell;
            for (int c; (c = std::fgetc(shell)) != EOF;)
                said_by_shell += static_cast<char>(c);
            BOOST_TEST(::pclose(shell) == 0);
            BOOST_TEST(said_by_shell == text);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
