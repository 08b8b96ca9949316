// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// How far what somebody has typed is from a key that there is.

#pragma once

#include <cstddef>
#include <string_view>

namespace qcow2 {

// How many letters are wrong, missing, too many, or in the place of their neighbours; none if
// only the first word of the key is missing.
std::size_t typing_errors(std::string_view typed, std::string_view key);

}  // namespace qcow2
