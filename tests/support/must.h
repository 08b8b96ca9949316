// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// must(result): the value of a Result, or the end of the test case with the
// error's message.

#pragma once

#include <optional>
#include <string>
#include <utility>

#include <boost/test/unit_test.hpp>

#include "core/base/result.h"

namespace qcow2::test {

// "ok", or the error in words. (What Boost is to say if a check fails is made if it does not,
// too.)
inline std::string words(const std::optional<Error> &error)
{
    return error ? std::string(to_string(error->code)) + ": " + error->what : "ok";
}
template <class T>
std::string words(const Result<T> &result)
{
    return words(result ? std::optional<Error>() : result.error());
}

template <class T>
T must(Result<T> result, const char *file = __builtin_FILE(), int line = __builtin_LINE())
{
    BOOST_REQUIRE_MESSAGE(result.has_value(),
                          file << ":" << line << ": must succeed: " << words(result));
    return std::move(result).value();
}

}  // namespace qcow2::test
