// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/command_line.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string_view>
#include <vector>

namespace qcow2 {

namespace {

// nbdkit's short options that have a value (nbdkit(1)).
constexpr std::string_view short_with_value = "DegipPtuU";

// Long options that have a value, as "--option value".
constexpr std::string_view long_with_value[] = {
    "--debug",      "--export",   "--export-name",    "--exportname", "--filter",
    "--group",      "--ip-addr",  "--ipaddr",         "--log",        "--mask-handshake",
    "--pid-file",   "--pidfile",  "--port",           "--run",        "--selinux-label",
    "--threads",    "--tls",      "--tls-certificates", "--tls-psk",  "--unix",
    "--user",
};

}  // namespace

bool asks_for_read_only(std::span<const std::string> arguments)
{
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const std::string_view argument = arguments[i];
        if (argument == "--")
            return false;
        if (argument == "--readonly" || argument == "--read-only")
            return true;
        if (argument.starts_with("--")) {
            i += std::ranges::find(long_with_value, argument) != std::end(long_with_value);
            continue;
        }
        if (!argument.starts_with('-'))
            continue;
        for (std::size_t k = 1; k < argument.size(); ++k) {
            if (argument[k] == 'r')
                return true;
            if (short_with_value.find(argument[k]) != std::string_view::npos) {
                i += k + 1 == argument.size();  // else the rest is the value
                break;
            }
        }
    }
    return false;
}

bool server_asked_for_read_only()
{
    std::ifstream file("/proc/self/cmdline", std::ios::binary);
    std::vector<std::string> arguments;
    for (std::string argument; std::getline(file, argument, '\0');)
        arguments.push_back(argument);
    return asks_for_read_only(arguments);
}

}  // namespace qcow2
