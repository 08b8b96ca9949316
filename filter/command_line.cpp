// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/command_line.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
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
    "--debug",          "--export",   "--export-name",
    "--exportname",     "--filter",   "--group",
    "--ip-addr",        "--ipaddr",   "--log",
    "--mask-handshake", "--pid-file", "--pidfile",
    "--port",           "--run",      "--selinux-label",
    "--threads",        "--tls",      "--tls-certificates",
    "--tls-psk",        "--unix",     "--user",
};

constexpr std::size_t abbreviation_min = 4;  // "--re": no other option begins so

// An option of nbdkit by its short letter and its long names. "--rea" is "--readonly", as
// getopt_long has it.
struct Option {
    char letter;
    std::string_view long_names[2];

    bool is(char c) const { return letter != '\0' && c == letter; }
    bool is(std::string_view name) const
    {
        return name.size() >= abbreviation_min &&
               std::ranges::any_of(long_names, [&](auto known) { return known.starts_with(name); });
    }
};

constexpr Option read_only = {'r', {"--readonly", "--read-only"}};
constexpr Option foreground = {'f', {"--foreground", "--no-fork"}};
constexpr Option single = {'s', {"--single", "--stdin"}};
constexpr Option run_option = {'\0', {"--run"}};
constexpr Option unix_socket = {'U', {"--unix"}};
constexpr Option port = {'p', {"--port"}};
constexpr Option tls = {'\0', {"--tls"}};
constexpr Option vsock = {'\0', {"--vsock"}};
constexpr Option verbose = {'v', {"--verbose"}};
constexpr Option threads = {'t', {"--threads"}};
constexpr Option user = {'u', {"--user"}};
constexpr Option group = {'g', {"--group"}};
constexpr Option log_to = {'\0', {"--log"}};

// The values of an option, in their order; of one that has none: an empty text each time that
// it is there.
std::vector<std::string_view> values_of(std::span<const std::string> arguments,
                                        const Option &option)
{
    std::vector<std::string_view> values;
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const std::string_view argument = arguments[i];
        const auto next = [&]() -> std::string_view {
            return ++i < arguments.size() ? std::string_view(arguments[i]) : "";
        };
        if (argument == "--")
            break;
        if (argument.starts_with("--")) {
            const std::size_t equals = std::min(argument.find('='), argument.size());
            const std::string_view name = argument.substr(0, equals);
            std::string_view value = argument.substr(std::min(equals + 1, argument.size()));
            const auto is_that = [&](std::string_view known) { return known.starts_with(name); };
            if (equals == argument.size() && std::ranges::any_of(long_with_value, is_that))
                value = next();
            if (option.is(name))
                values.push_back(value);
            continue;
        }
        if (!argument.starts_with('-'))
            continue;
        for (std::size_t k = 1; k < argument.size(); ++k) {
            const bool with_value = short_with_value.find(argument[k]) != std::string_view::npos;
            std::string_view value;
            if (with_value)  // the rest, or what follows
                value = k + 1 < argument.size() ? argument.substr(k + 1) : next();
            if (option.is(argument[k]))
                values.push_back(value);
            if (with_value)
                break;
        }
    }
    return values;
}

std::string percent_encoded(std::string_view path)
{
    std::string encoded;
    for (const unsigned char c : path) {
        if (std::isalnum(c) ||
            std::string_view("/-._~").find(static_cast<char>(c)) != std::string_view::npos) {
            encoded += static_cast<char>(c);
            continue;
        }
        char escape[4];
        std::snprintf(escape, sizeof escape, "%%%02X", c);
        encoded += escape;
    }
    return encoded;
}

bool has_option(std::span<const std::string> arguments, const Option &option)
{
    return !values_of(arguments, option).empty();
}

// Of an option that may be given again: the last one counts.
std::optional<std::string> last_value_of(std::span<const std::string> arguments,
                                         const Option &option)
{
    const auto values = values_of(arguments, option);
    return values.empty() ? std::optional<std::string>() : std::string(values.back());
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

bool asks_for_read_only(std::span<const std::string> arguments)
{
    return has_option(arguments, read_only);
}

bool asks_to_be_verbose(std::span<const std::string> arguments)
{
    return has_option(arguments, verbose);
}

bool stays_in_foreground(std::span<const std::string> arguments)
{
    return has_option(arguments, foreground) || has_option(arguments, single) ||
           has_option(arguments, run_option) ||
           std::ranges::count(values_of(arguments, unix_socket), "-") != 0 ||
           std::getenv("LISTEN_FDS");
}

bool has_one_thread(std::span<const std::string> arguments)
{
    return last_value_of(arguments, threads) == "1";
}

std::optional<std::string> asked_for_user(std::span<const std::string> arguments)
{
    return last_value_of(arguments, user);
}

std::optional<std::string> asked_for_group(std::span<const std::string> arguments)
{
    return last_value_of(arguments, group);
}

LogTarget log_target(std::span<const std::string> arguments)
{
    const auto last = last_value_of(arguments, log_to);
    return last == "stderr"   ? LogTarget::standard_error
           : last == "syslog" ? LogTarget::system_log
           : last == "null"   ? LogTarget::nothing
                              : LogTarget::by_place;
}

std::optional<std::string> nbd_uri(
    std::span<const std::string> arguments,
    const std::function<std::string(const std::string &)> &make_absolute)
{
    const auto last = [&](const Option &option) { return last_value_of(arguments, option); };
    if (arguments.empty() || has_option(arguments, single) || has_option(arguments, vsock) ||
        std::getenv("LISTEN_FDS"))
        return std::nullopt;
    const std::string scheme = last(tls) == "require" ? "nbds" : "nbd";
    if (const auto path = last(unix_socket)) {
        if (*path == "-")
            return std::nullopt;  // nbdkit makes a name
        return scheme + "+unix:///?socket=" + percent_encoded(make_absolute(*path));
    }
    return scheme + "://localhost:" + last(port).value_or("10809") + "/";
}

bool server_asked_for_read_only() { return asks_for_read_only(server_arguments()); }

}  // namespace qcow2
