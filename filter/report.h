// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What goes from the engine to nbdkit: the one place where an Error becomes
// nbdkit_error and an errno, and the one place where exceptions stop. Any
// thread.

#pragma once

#include <new>
#include <stdexcept>
#include <string>

#include "core/base/log.h"
#include "core/base/result.h"

namespace qcow2 {

// What the client is told. Never 0, and never ENOTSUP: from a callback that
// was not asked for a fast zero, that would stop the server.
int to_errno(Errc code);

// nbdkit_error with the whole message.
void report(const Error &error);

// The LogSink of the filter. nbdkit knows errors and debug messages only, so
// that a warning is an error that says so.
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
    report(done.error());
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
    report(done.error());
    *err = to_errno(done.error().code);
    return -1;
}

}  // namespace qcow2
