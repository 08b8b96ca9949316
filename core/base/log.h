// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Where the engine says what the person at the terminal should know. The roof
// sets the sink before the engine is used; without one, nothing is said.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/base/formatted.h"

namespace qcow2 {

// detail: of each step of something, for those who look for just that.
enum class LogLevel { detail, debug, warning };

using LogSink = void (*)(LogLevel level, const std::string &line);

// Not to be called while other threads use the engine.
void set_log_sink(LogSink sink);

// Any thread.
void log_detail(const std::string &line);
void log_debug(const std::string &line);
void log_warning(const std::string &line);

template <class First, class... Rest>
void log_detail(Format<First, Rest...> line, const First &first, const Rest &...rest)
{
    log_detail(formatted(line, first, rest...));
}

template <class First, class... Rest>
void log_debug(Format<First, Rest...> line, const First &first, const Rest &...rest)
{
    log_debug(formatted(line, first, rest...));
}

template <class First, class... Rest>
void log_warning(Format<First, Rest...> line, const First &first, const Rest &...rest)
{
    log_warning(formatted(line, first, rest...));
}

// Warnings of which an image can cause any number in one act: the first of them, and
// that there are more. (All of them are there as debug lines.)
class FewWarnings {
public:
    static constexpr std::size_t most = 20;

    void say(const std::string &line);

    template <class First, class... Rest>
    void say(Format<First, Rest...> line, const First &first, const Rest &...rest)
    {
        say(formatted(line, first, rest...));
    }

private:
    std::size_t said_ = 0;
};

// "0x1f000": how every place in a file is written.
std::string hex(unsigned long long n);

// How a text that comes from a file or a client is written, so that no image
// tells a terminal or a log what to do, and none makes up lines of its own.
// Escaped, as \xNN, are bytes that are no UTF-8, and characters that cannot be
// seen or that change how others are seen: controls, line ends, directions.
//
// "'b0'", "'it is'"; "$'it\'s \x1b[2J'" if something must be escaped: a name that
// can be told from what is around it. Both are what a shell takes for the text. Of one that
// is longer than any path the beginning.
constexpr std::size_t quote_bytes_max = 4096;
std::string quote(std::string_view name);
// For commands that are to be typed: bare where a shell takes that, else quoted.
std::string shell_word(std::string_view text);
// For what is not quoted, or not known to be: a net under whole messages.
std::string printable(std::string_view text);

}  // namespace qcow2
