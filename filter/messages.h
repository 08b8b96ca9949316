// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What goes from the engine to the person: the one place where an Error becomes
// nbdkit_error and an errno, the one place where a warning is said, and the one
// place where exceptions stop. Any thread.
//
// Whatever passes here is one line, and printable() (core/base/log.h): names come
// from images, and images from anybody.
//
// Warnings. nbdkit has two words for a filter: nbdkit_error, which puts "error: " in
// front, and nbdkit_debug, which is heard with -v alone. A server that does what it
// was asked for must not say "error"; a warning that nobody hears is none. So we say
// warnings ourselves, where nbdkit says its errors (--log), in its form:
// "nbdkit: qcow2bitmap: warning: ..." on standard error, and the same without
// "nbdkit: " and with the priority of a warning in syslog. Where it cannot be found out
// where that is (no /proc), it is an error that says that it is a warning.

#pragma once

#include <new>
#include <span>
#include <stdexcept>
#include <string>

#include "core/base/log.h"
#include "core/base/result.h"

namespace qcow2 {

// What the client is told. Never 0, and never ENOTSUP: from a callback that
// was not asked for a fast zero, that would stop the server.
int to_errno(Errc code);

// nbdkit_error with the whole message.
void say_error(const Error &error);

// When the filter is loaded: before nbdkit may go into the background.
void prepare_warnings();

// Where warnings are said: by what nbdkit's arguments say (command_line.h), and whether
// the process is another one than that which has loaded the filter. through_nbdkit:
// nobody knows.
enum class WarningPlace { standard_error, system_log, nowhere, through_nbdkit };
WarningPlace place_of_warnings(std::span<const std::string> arguments, bool forked);

// The LogSink of the filter.
void log_to_nbdkit(LogLevel level, const std::string &line);

// Runs the body of a callback. No exception leaves it.
template <class Body>
auto guarded(Body body) noexcept -> decltype(body())
{
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return Error(Errc::io, "out of memory");
    } catch (...) {
        return Error(Errc::io, "internal error");
    }
}

// For callbacks of the control path: 0, or -1 with the error said.
template <class Body>
int run(Body body) noexcept
{
    const Result<void> done = guarded(body);
    if (done)
        return 0;
    say_error(done.error());
    return -1;
}

// For callbacks that answer a question: -1 with the error said if there is none.
template <class Question>
auto answer(Question question) noexcept -> decltype(question())
{
    decltype(question()) is = -1;
    run([&]() -> Result<void> {
        is = question();
        return {};
    });
    return is;
}

// For callbacks of the data path: *err too.
template <class Body>
int serve(int *err, Body body) noexcept
{
    const Result<void> done = guarded(body);
    if (done)
        return 0;
    say_error(done.error());
    *err = to_errno(done.error().code);
    return -1;
}

}  // namespace qcow2
