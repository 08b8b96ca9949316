// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/framing.h"

#include <boost/test/unit_test.hpp>

#include <string>
#include <vector>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(framing)

namespace {

using Kind = Framing::Frame::Kind;

// Each frame as its text, the others as words.
std::vector<std::string> frames(std::string_view bytes, std::size_t piece)
{
    Framing framing;
    std::vector<std::string> found;
    while (!bytes.empty()) {
        std::string_view part = bytes.substr(0, piece);
        bytes.remove_prefix(part.size());
        while (auto frame = framing.take(part)) {
            switch (frame->kind) {
            case Kind::text: found.push_back(frame->text); break;
            case Kind::stray: found.push_back("stray " + frame->text); break;
            case Kind::too_deep: found.push_back("too deep"); break;
            case Kind::too_long: found.push_back("too long"); break;
            }
        }
    }
    if (framing.under_way())
        found.push_back("...");
    return found;
}

std::string brackets(std::size_t depth)
{
    return std::string(depth, '[') + std::string(depth, ']');
}

}  // namespace

BOOST_AUTO_TEST_CASE(values_are_found_wherever_the_stream_is_cut)
{
    const struct {
        std::string_view stream;
        std::vector<std::string> expected;
    } cases[] = {
        {R"({"a":1}{"b":2})", {R"({"a":1})", R"({"b":2})"}},
        {" \r\n{\"a\" : [1, {}]}\t\n", {"{\"a\" : [1, {}]}"}},
        {R"({"a":"}]\"{"})", {R"({"a":"}]\"{"})"}},
        {R"({'a':'b"c\'d'})", {R"({"a":"b\"c'd"})"}},
        {R"("a" 12 true {"x":1})", {R"("a")", "12", "true", R"({"x":1})"}},
        {"1", {"..."}},
        {"{\"a\":", {"..."}},
        {"}]{}", {"}", "]", "{}"}},
        {"[}{]{}", {"[}", "{]", "{}"}},
        {"1,2:3 ", {"1", ",", "2", ":", "3"}},
        {"{\"a\":\"b\nc\"}{}", {"stray {\"a\":\"b\n", "}", "{}"}},
        {"\xff{}", {"stray \xff", "{}"}},
        {"[\xfe 1, 2]{}", {"stray [\xfe", ",", "2", "]", "{}"}},
        {std::string_view("\0x{}", 4), {std::string("stray \0", 7), "{}"}},
        {"/* no { */ {}", {"stray /", "stray { *", "{}"}},
    };
    for (const auto &[stream, expected] : cases)
        for (const std::size_t piece : {std::size_t(1), std::size_t(3), stream.size()})
            BOOST_TEST(frames(stream, piece) == expected, stream << " in pieces of " << piece);
}

// Ours: QEMU's limits are 1024 and 64 MiB.
BOOST_AUTO_TEST_CASE(what_is_too_deep_is_the_end)
{
    BOOST_TEST(frames(brackets(64), 7) == std::vector<std::string>{brackets(64)});
    BOOST_TEST(frames(brackets(65) + "{}", 7) == std::vector<std::string>{"too deep"});
    BOOST_TEST(frames(brackets(10000) + "{}", 4096) == std::vector<std::string>{"too deep"});
    std::string mixed;
    for (int i = 0; i < 40; ++i)
        mixed += "[{\"a\":";
    BOOST_TEST(frames(mixed, 4096) == std::vector<std::string>{"too deep"});
}

BOOST_AUTO_TEST_CASE(what_is_too_long_is_the_end_and_not_kept)
{
    const std::string longest = "\"" + std::string(Framing::request_bytes_max - 2, 'x') + "\"";
    BOOST_TEST((frames(longest, 4096) == std::vector<std::string>{longest}));
    for (const char *begin : {"\"", "", "[", "[1", "[\""})
        BOOST_TEST((frames(begin + std::string(Framing::request_bytes_max, '1') + "\"]{}", 65536) ==
                    std::vector<std::string>{"too long"}),
                   begin);
    // White space between values is none of them.
    BOOST_TEST((frames(std::string(3 << 20, ' ') + "{}", 65536) == std::vector<std::string>{"{}"}));
}

BOOST_AUTO_TEST_SUITE_END()
