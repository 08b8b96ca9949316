// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/monitor.h"

#include <boost/test/unit_test.hpp>

#include "tests/support/conversation.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(monitor)

namespace {

constexpr std::string_view negotiation = R"({"execute":"qmp_capabilities"})";

struct Exchange {
    std::string_view said;
    std::string_view desc;  // of the error
    std::string_view error_class = "GenericError";
};

// In a conversation that has begun, or not.
void expect(const Exchange &exchange, bool negotiated)
{
    for (const std::size_t piece : {std::size_t(1), std::string::npos}) {
        MemoryHost host;
        Monitor monitor;
        if (negotiated)
            BOOST_TEST_REQUIRE(converse(monitor, host, negotiation) == "{\"return\":{}}\r\n");
        const Json expected = {
            {"error", {{"class", exchange.error_class}, {"desc", exchange.desc}}}};
        BOOST_TEST(converse(monitor, host, exchange.said, piece) == to_line(expected) + "\r\n",
                   exchange.said);
        BOOST_TEST(host.entered == 0u, exchange.said << " went to the disk");
        BOOST_TEST(monitor.negotiated() == negotiated);
        BOOST_TEST(!monitor.ended());
    }
}

std::string answer_to(std::string_view request)
{
    MemoryHost host;
    Monitor monitor;
    converse(monitor, host, negotiation);
    return converse(monitor, host, request);
}

}  // namespace

BOOST_AUTO_TEST_CASE(it_greets)
{
    const auto greeting = parse_json(Monitor::greeting());
    BOOST_TEST_REQUIRE(greeting.has_value());
    BOOST_TEST(greeting->at("QMP").at("capabilities") == Json::array());
    const Json &version = greeting->at("QMP").at("version");
    BOOST_TEST(version.at("package") == "qcow2bitmap " PACKAGE_VERSION);
    for (const char *part : {"major", "minor", "micro"})
        BOOST_TEST(version.at("qemu").at(part).is_number_integer());
}

BOOST_AUTO_TEST_CASE(nothing_is_done_before_negotiation)
{
    const char *expecting = "Expecting capabilities negotiation with 'qmp_capabilities'";
    const Exchange exchanges[] = {
        {R"({"execute":"quit"})", expecting, "CommandNotFound"},
        {R"({"execute":"nope"})", expecting, "CommandNotFound"},
        {R"({"execute":"qmp_capabilities","arguments":{"enable":["oob"]}})",
         "Parameter 'null' does not accept value 'oob'"},
        {R"({"execute":"qmp_capabilities","arguments":{"enable":1}})",
         "Invalid parameter type for 'enable', expected: array"},
        {R"({"execute":"qmp_capabilities","arguments":{"x":1}})", "Parameter 'x' is unexpected"},
    };
    for (const Exchange &exchange : exchanges)
        expect(exchange, false);
    expect({negotiation, "Capabilities negotiation is already complete, command ignored",
            "CommandNotFound"},
           true);
}

// To the letter as qemu-storage-daemon 7.2 has them; interop/test-control.py has the rest.
BOOST_AUTO_TEST_CASE(each_error_has_its_sentence)
{
    const Exchange exchanges[] = {
        {R"({"execute":"nope"})", "The command nope has not been found", "CommandNotFound"},
        {R"({"execute":1})", "QMP input member 'execute' must be a string"},
        {R"({"execute":"quit","arguments":[]})", "QMP input member 'arguments' must be an object"},
        {R"({"execute":"quit","foo":1})", "QMP input member 'foo' is unexpected"},
        {R"({})", "QMP input lacks member 'execute'"},
        {R"([])", "QMP input must be a JSON object"},
        {R"("abc")", "QMP input must be a JSON object"},
        {R"(})", "JSON parse error"},
        {R"({"execute":"quit",})", "JSON parse error"},
        {R"({"execute":"quit","execute":"quit"})", "JSON parse error"},
        {R"({"execute":"quit","arguments":{"x":1}})", "Parameter 'x' is unexpected"},
        {R"({"execute":"block-dirty-bitmap-add","arguments":{"name":"a"}})",
         "Parameter 'node' is missing"},
        {R"({"execute":"block-dirty-bitmap-add","arguments":{"node":1}})",
         "Invalid parameter type for 'node', expected: string"},
        {R"({"execute":"block-dirty-bitmap-add","arguments":{"node":"disk","name":"a","persistent":1}})",
         "Invalid parameter type for 'persistent', expected: boolean"},
        {R"({"execute":"block-dirty-bitmap-add","arguments":{"node":"disk","name":"a","granularity":"x"}})",
         "Parameter 'granularity' expects uint64"},
        {R"({"execute":"block-dirty-bitmap-add","arguments":{"node":"disk","name":"a","granularity":-1}})",
         "Parameter 'granularity' expects uint32_t"},
        {R"({"execute":"block_resize","arguments":{"size":9223372036854775808}})",
         "Invalid parameter type for 'size', expected: integer"},
        {R"({"execute":"transaction","arguments":{"actions":[{"type":"nope"}]}})",
         "Parameter 'type' does not accept value 'nope'"},
        {R"({"execute":"transaction","arguments":{"actions":[{"type":"abort","data":{"x":1}}]}})",
         "Parameter 'actions[0].data.x' is unexpected"},
        {R"({"execute":"block-dirty-bitmap-merge","arguments":{"node":"disk","target":"a","bitmaps":["b",1]}})",
         "Invalid parameter type for 'null', expected: BlockDirtyBitmapOrStr"},
    };
    for (const Exchange &exchange : exchanges)
        expect(exchange, true);
}

BOOST_AUTO_TEST_CASE(an_id_comes_back_whatever_it_is)
{
    for (const char *id : {"null", "true", "0", "-1", "18446744073709551615", "1.5", "\"\"",
                           "\"\\u0000\\u00fc\"", "[]", "{\"a\":[null]}"}) {
        BOOST_TEST(answer_to(std::string(R"({"execute":"query-jobs","id":)") + id + "}") ==
                   std::string("{\"id\":") + id + ",\"return\":[]}\r\n");
        BOOST_TEST(answer_to(std::string(R"({"execute":"nope","id":)") + id + "}")
                       .find(std::string("\"id\":") + id) != std::string::npos);
    }
    // It cannot be believed of what is no JSON.
    BOOST_TEST(answer_to(R"({"id":1,"execute"})").find("id") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(answers_are_lines_of_ascii)
{
    const std::string said = answer_to("{\"execute\":\"n\xc3\xb6 \xf0\x9f\x98\x80\\u0000\"}");
    BOOST_TEST(
        said ==
        R"({"error":{"class":"CommandNotFound","desc":"The command n\u00f6 \ud83d\ude00\u0000 )"
        "has not been found\"}}\r\n");
    // Names come from images.
    BOOST_TEST(Monitor::answer(Json("\xff"), Json("a\xff\n")) ==
               "{\"id\":\"\\ufffd\",\"return\":\"a\\ufffd\\n\"}\r\n");
}

BOOST_AUTO_TEST_CASE(what_passes_the_limits_ends_the_conversation)
{
    const struct {
        std::string said;
        const char *desc;
    } cases[] = {{std::string(10000, '['), "JSON nesting depth limit exceeded"},
                 {"{\"a\":\"" + std::string(2 << 20, 'x'), "JSON token size limit exceeded"}};
    for (const auto &[request, desc] : cases) {
        MemoryHost host;
        Monitor monitor;
        const std::string said = converse(monitor, host, request + std::string(negotiation), 4096);
        BOOST_TEST(said ==
                   std::string(R"({"error":{"class":"GenericError","desc":")") + desc + "\"}}\r\n");
        BOOST_TEST(monitor.ended());
    }
}

BOOST_AUTO_TEST_CASE(an_answer_that_is_too_long_for_clients_is_refused)
{
    const std::string said = Monitor::answer(Json(1), Json(std::string(11 << 20, 'x')));
    BOOST_TEST(said.size() < 1000u);
    BOOST_TEST(said.find("\"id\":1") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(an_event_tells_when)
{
    BOOST_TEST(Monitor::event("X", {{"a", 1}}, 5, 6) ==
               "{\"data\":{\"a\":1},\"event\":\"X\","
               "\"timestamp\":{\"microseconds\":6,\"seconds\":5}}\r\n");
}

BOOST_AUTO_TEST_SUITE_END()
