// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The control channel and whatever bytes: every conversation is answered by lines that
// are what they must be, and cutting the stream elsewhere changes no answer.

#include <algorithm>
#include <string>
#include <string_view>

#include "tests/fuzz/input.h"
#include "tests/support/conversation.h"

namespace qcow2::test {

namespace {

void check_line(const std::string &line)
{
    require(std::ranges::all_of(line, [](unsigned char c) { return c >= 0x20 && c < 0x7f; }),
            "not plain ASCII", line);
    const auto message = parse_json(line);
    require(message && message->is_object(), "no JSON object", line);
    require(message->contains("return") != message->contains("error"), "neither answer nor error",
            line);
    if (message->contains("error")) {
        const Json &error = message->at("error");
        require(error.size() == 2 && error.at("desc").is_string() && error.at("desc") != "",
                "no error", line);
        require(error.at("class") == "GenericError" || error.at("class") == "CommandNotFound",
                "class", line);
    }
}

// Answers may tell the time.
std::string kind_of(const std::string &line)
{
    return line.find("\"return\"") == line.npos ? line : "return";
}

std::vector<std::string> answers(std::string_view bytes, std::size_t piece)
{
    MemoryHost host;
    Monitor monitor;
    std::vector<std::string> lines = lines_of(converse(monitor, host, bytes, piece));
    require(host.entered == host.left || host.ending(), "entered, and did not leave");
    for (std::string &line : lines) {
        check_line(line);
        line = kind_of(line);
    }
    return lines;
}

}  // namespace

// The first byte is the length of the pieces.
void fuzz_control(const std::uint8_t *data, std::size_t size)
{
    if (size == 0)
        return;
    const std::string_view bytes(reinterpret_cast<const char *>(data) + 1, size - 1);
    require(answers(bytes, std::string::npos) == answers(bytes, std::size_t(1) + data[0] % 64),
            "answered otherwise in pieces", bytes);
}

}  // namespace qcow2::test
