// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Whether a text is UTF-8. Any thread.

#pragma once

#include <string_view>

namespace qcow2 {

// Without overlong forms, surrogates, and what lies above U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace qcow2
