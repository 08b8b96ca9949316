// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Values of keys, as people type them: sizes, paths, and what is said of one that is wrong.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace qcow2 {

Error invalid(std::string what);

// "qcow2-cache=1M: not a size of ...".
Error not_a(std::string_view key, std::string_view value, std::string_view wanted);

// From where we are now: nbdkit changes its directory when it becomes a daemon.
Result<std::string> absolute_path(std::string_view key, const char *value);

// A size as people type it: the value of a key, or a part of it. nbdkit's own parser takes a sign
// and spaces in front of a number, so that "+10G" would be 10G; who types that means something
// else.
Result<std::uint64_t> parse_size(std::string_view size, const Error &what_is_wrong);

}  // namespace qcow2
