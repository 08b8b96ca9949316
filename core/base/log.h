// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Where the engine says what the person at the terminal should know. The roof
// sets the sink before the engine is used; without one, nothing is said.

#pragma once

#include <string>
#include <string_view>

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

// "0x1f000": how every place in a file is written.
std::string hex(unsigned long long n);

// Text that comes from a file, as a terminal may have it: control characters,
// quotes and backslashes are \xNN.
std::string printable(std::string_view text);

// "'b0'": how a name that comes from a file is written.
std::string quote(std::string_view name);

}  // namespace qcow2
