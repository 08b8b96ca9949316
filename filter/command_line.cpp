// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/command_line.h"

#include <algorithm>
#include <cstdlib>
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

// Options that have no value, by their short letters and by the beginnings that
// getopt_long takes for their long names.
struct Option {
    std::string_view letters;
    std::string_view long_names[4];
};

constexpr Option read_only = {"r", {"--readonly", "--read-only"}};
constexpr Option foreground = {"fs", {"--foreground", "--no-fork", "--single", "--stdin"}};

constexpr Option verbose = {"v", {"--verbose"}};

constexpr std::size_t abbreviation_min = 4;  // "--re": no other option begins so

bool is_long_name(std::string_view argument, const Option &option)
{
    return argument.size() >= abbreviation_min &&
           std::ranges::any_of(option.long_names,
                               [&](std::string_view name) { return name.starts_with(argument); });
}

bool has_option(std::span<const std::string> arguments, const Option &option)
{
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const std::string_view argument = arguments[i];
        if (argument == "--")
            return false;
        if (is_long_name(argument, option))
            return true;
        if (argument.starts_with("--")) {
            i += std::ranges::find(long_with_value, argument) != std::end(long_with_value);
            continue;
        }
        if (!argument.starts_with('-'))
            continue;
        for (std::size_t k = 1; k < argument.size(); ++k) {
            if (option.letters.find(argument[k]) != std::string_view::npos)
                return true;
            if (short_with_value.find(argument[k]) != std::string_view::npos) {
                i += k + 1 == argument.size();  // else the rest is the value
                break;
            }
        }
    }
    return false;
}

}  // namespace

std::vector<std::string> server_arguments()
{
    std::ifstream file("/proc/self/cmdline", std::ios::binary);
    std::vector<std::string> arguments;
    for (std::string argument; std::getline(file, argument, '\0');)
        arguments.push_back(argument);
    return arguments;
}

bool asks_for_read_only(std::span<const std::string> arguments) { return has_option(arguments, read_only); }

bool asks_to_be_verbose(std::span<const std::string> arguments) { return has_option(arguments, verbose); }

bool stays_in_foreground(std::span<const std::string> arguments)
{
    return has_option(arguments, foreground) || std::getenv("LISTEN_FDS");
}

bool server_asked_for_read_only() { return asks_for_read_only(server_arguments()); }

}  // namespace qcow2
