// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/log.h"

#include <cstdio>

namespace qcow2 {

namespace {
LogSink log_sink = nullptr;
}

void set_log_sink(LogSink sink) { log_sink = sink; }

void log_detail(const std::string &line)
{
    if (log_sink)
        log_sink(LogLevel::detail, line);
}

void log_debug(const std::string &line)
{
    if (log_sink)
        log_sink(LogLevel::debug, line);
}

void log_warning(const std::string &line)
{
    if (log_sink)
        log_sink(LogLevel::warning, line);
}

std::string hex(unsigned long long n)
{
    char text[2 + 16 + 1];
    std::snprintf(text, sizeof text, "0x%llx", n);
    return text;
}

std::string printable(std::string_view text)
{
    std::string printed;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= ' ' && byte != 0x7f && c != '\'' && c != '\\') {
            printed += c;
            continue;
        }
        char escaped[5];
        std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
        printed += escaped;
    }
    return printed;
}

std::string quote(std::string_view name) { return "'" + printable(name) + "'"; }

}  // namespace qcow2
