// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Integer arithmetic that says when it would overflow, and the bits of a word. Pure.

#pragma once

#include <bit>
#include <cstdint>
#include <optional>

#include "core/base/invariant.h"

namespace qcow2 {

constexpr std::uint64_t div_ceil(std::uint64_t n, std::uint64_t d) { return n / d + (n % d != 0); }

constexpr std::uint64_t align_down(std::uint64_t n, std::uint64_t power_of_two)
{
    return n & ~(power_of_two - 1);
}

// The caller knows that the result fits.
constexpr std::uint64_t align_up(std::uint64_t n, std::uint64_t power_of_two)
{
    return align_down(n + power_of_two - 1, power_of_two);
}

constexpr bool is_aligned(std::uint64_t n, std::uint64_t power_of_two)
{
    return (n & (power_of_two - 1)) == 0;
}

constexpr bool is_power_of_two(std::uint64_t n) { return std::has_single_bit(n); }

inline std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b)
{
    std::uint64_t r;
    if (__builtin_add_overflow(a, b, &r))
        return std::nullopt;
    return r;
}

inline std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b)
{
    std::uint64_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return std::nullopt;
    return r;
}

// True if [offset, offset + length) lies inside [0, size).
constexpr bool fits(std::uint64_t offset, std::uint64_t length, std::uint64_t size)
{
    return offset <= size && length <= size - offset;
}

// Calls visit(n) for each bit n of the word that is set.
template <class Visit>
void for_each_bit(std::uint64_t word, Visit visit)
{
    for (; word != 0; word &= word - 1)
        visit(static_cast<std::uint64_t>(std::countr_zero(word)));
}

}  // namespace qcow2
