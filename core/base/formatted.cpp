// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

// All of {fmt} comes into this object.
#define FMT_HEADER_ONLY 1

#include "core/base/formatted.h"

#include <fmt/format.h>

namespace qcow2 {

std::string formatted_of(fmt::string_view format, fmt::format_args arguments)
{
    return fmt::vformat(format, arguments);
}

}  // namespace qcow2
