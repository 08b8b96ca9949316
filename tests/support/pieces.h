// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A whole disk, piece by piece: a buffer of its size is megabytes that the system
// has to give and to take for each of thousands of states, and that takes longer
// than to look at what is in it.

#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/bytes.h"
#include "core/base/range.h"

namespace qcow2::test {

// Calls function(range, bytes) for the pieces of [0, size), ascending; bytes, of the
// length of the range, are the same memory each time, with anything in it.
template <class Function>
void for_each_piece(std::uint64_t size, Function function)
{
    constexpr std::uint64_t piece_max = 64 << 10;
    Buffer bytes(std::min(piece_max, size));
    for (std::uint64_t at = 0; at < size; at += piece_max) {
        const Range piece = Range::of(at, std::min(piece_max, size - at));
        function(piece, sub(MutableBytes(bytes), 0, piece.length()));
    }
}

}  // namespace qcow2::test
