// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/log.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>

#include "core/base/utf8.h"

namespace qcow2 {

namespace {

LogSink log_sink = nullptr;

// Seen as it stands, alone and beside others.
bool is_visible(char32_t c)
{
    struct Characters {
        char32_t first, last;
    };
    // clang-format off
    constexpr Characters invisible[] = {
        {0, 0x1f},          {0x7f, 0x9f},     {0x61c, 0x61c},
        {0x200b, 0x200f},  // no width, directions
        {0x2028, 0x202e},  // line ends, directions
        {0x2060, 0x206f},   {0xfeff, 0xfeff}, {0xfff9, 0xfffb},
        {0xe0000, 0xe0fff},  // tags
    };
    // clang-format on
    return std::ranges::none_of(
        invisible, [&](const Characters &range) { return range.first <= c && c <= range.last; });
}

// What cannot be seen as \xNN; these (ASCII) with a backslash before them.
std::string escaped(std::string_view text, std::string_view with_backslash)
{
    std::string out;
    while (!text.empty()) {
        const std::size_t length = utf8_length(text);
        const std::string_view part = text.substr(0, std::max<std::size_t>(length, 1));
        text.remove_prefix(part.size());
        if (length != 0 && is_visible(utf8_character(part))) {
            if (with_backslash.find(part) != with_backslash.npos)
                out += '\\';
            out += part;
            continue;
        }
        for (const char c : part) {
            char byte[5];
            std::snprintf(byte, sizeof byte, "\\x%02x", static_cast<unsigned char>(c));
            out += byte;
        }
    }
    return out;
}

}  // namespace

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

void FewWarnings::say(const std::string &line)
{
    if (said_ == most)
        log_warning("and more like these; -v tells of each");
    if (said_++ < most)
        log_warning(line);
    else
        log_debug(line);
}

std::string hex(unsigned long long n)
{
    char text[2 + 16 + 1];
    std::snprintf(text, sizeof text, "0x%llx", n);
    return text;
}

std::string printable(std::string_view text) { return escaped(text, ""); }

std::string quote(std::string_view name)
{
    if (name.size() > quote_bytes_max)
        return formatted("{} and {} bytes more", quote(name.substr(0, quote_bytes_max)),
                         name.size() - quote_bytes_max);
    std::string text = escaped(name, "'");
    if (text == name)
        return formatted("'{}'", text);
    return formatted("$'{}'", escaped(name, "'\\"));
}

std::string shell_word(std::string_view text)
{
    constexpr std::string_view bare = "0123456789%+,-./:=@_"
                                      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const bool is_bare = !text.empty() && text.find_first_not_of(bare) == text.npos;
    return is_bare ? std::string(text) : quote(text);
}

}  // namespace qcow2
