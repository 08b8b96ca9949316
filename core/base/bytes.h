// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Spans of bytes. sub() is the only way to cut one: it checks. All functions
// are pure; any thread may call them.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <boost/endian/conversion.hpp>

#include "core/base/invariant.h"

namespace qcow2 {

using Bytes = std::span<const std::uint8_t>;
using MutableBytes = std::span<std::uint8_t>;
using Buffer = std::vector<std::uint8_t>;

// (64 bits, also where a size_t has 32: what comes from a file is checked whole.)
inline Bytes sub(Bytes bytes, std::uint64_t offset, std::uint64_t length)
{
    INVARIANT(offset <= bytes.size() && length <= bytes.size() - offset);
    return bytes.subspan(offset, length);
}

inline MutableBytes sub(MutableBytes bytes, std::uint64_t offset, std::uint64_t length)
{
    INVARIANT(offset <= bytes.size() && length <= bytes.size() - offset);
    return bytes.subspan(offset, length);
}

// 64 KiB, to write from.
inline constexpr std::array<std::uint8_t, 64 << 10> zeros{};

// True if every byte is zero; true for no bytes.
bool all_zero(Bytes bytes);

// Big-endian words at a byte position, which need not be aligned.
inline std::uint64_t load_be64(const std::uint8_t *p)
{
    std::uint64_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return boost::endian::big_to_native(v);
}

inline void store_be64(std::uint8_t *p, std::uint64_t v)
{
    v = boost::endian::native_to_big(v);
    __builtin_memcpy(p, &v, sizeof v);
}

}  // namespace qcow2
