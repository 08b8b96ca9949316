// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Sentences with numbers and names in them, by {fmt}: `formatted("{} at {:#x}", name, offset)`.
// The compiler compares format and arguments. Places in a file are {:#x}, as hex() has them;
// names that come from files and clients go through quote() (log.h).
//
// Error, finding() and the log functions take a format and its arguments themselves. One
// without arguments is no format: its braces are braces.
//
// {fmt} is compiled into formatted.cpp alone. Every other source sees the declarations, which
// cost little; and nothing is linked, so that the filter needs no libfmt where it is loaded.
// (Debian has {fmt} as a shared library only.) std::format is to replace it one day (g++ 12
// has it not).
//
// Any thread. They throw what std::string throws.

#pragma once

#include <fmt/core.h>

#include <string>

namespace qcow2 {

template <class... Arguments>
using Format = fmt::format_string<const Arguments &...>;

std::string formatted_of(fmt::string_view format, fmt::format_args arguments);

template <class... Arguments>
std::string formatted(Format<Arguments...> format, const Arguments &...arguments)
{
    return formatted_of(format, fmt::make_format_args(arguments...));
}

}  // namespace qcow2
