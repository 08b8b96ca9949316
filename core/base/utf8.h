// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Texts in UTF-8: without overlong forms, surrogates, and what lies above
// U+10FFFF. Any thread.

#pragma once

#include <cstddef>
#include <string_view>

namespace qcow2 {

bool is_utf8(std::string_view text);

// How many bytes the character at the front of a text has (which is not empty);
// 0 if what is there is no UTF-8.
std::size_t utf8_length(std::string_view text);
// The number of the character that these bytes, utf8_length() of them, are.
char32_t utf8_character(std::string_view bytes);

}  // namespace qcow2
