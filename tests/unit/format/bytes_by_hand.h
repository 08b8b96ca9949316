// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the tests of the format floor share: bytes by hand, and which finding
// an error is.

#pragma once

#include <string>

#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/format/findings.h"

namespace qcow2::test {

// True if the error of `result` is this finding, with its code.
template <class T>
bool is(const Result<T> &result, Finding finding)
{
    return !result && result.error().code == code_of(finding) &&
           result.error().what.find(sentence_of(finding)) != std::string::npos;
}

// The name of the finding that an error is, for messages; "sound" if none.
template <class T>
std::string said(const Result<T> &result)
{
    return result ? "sound" : result.error().what;
}

// "51 46 49 fb" and the like; white space does not matter.
inline Buffer from_hex(const std::string &text)
{
    Buffer bytes;
    unsigned digits = 0, value = 0;
    for (const char c : text) {
        if (c == ' ' || c == '\n')
            continue;
        value = value * 16 + static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10);
        if (++digits % 2 == 0) {
            bytes.push_back(static_cast<std::uint8_t>(value));
            value = 0;
        }
    }
    return bytes;
}

// A big-endian number in `width` bytes.
inline void poke(Buffer &bytes, std::size_t offset, unsigned width, std::uint64_t value)
{
    for (unsigned i = width; i-- > 0; value >>= 8)
        bytes.at(offset + i) = static_cast<std::uint8_t>(value);
}

}  // namespace qcow2::test
