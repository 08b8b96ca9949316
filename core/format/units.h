// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Places in the virtual disk (guest) and in the qcow2 file (host), in bytes
// (Offset) and in clusters (Cluster). Geometry converts between them; nothing
// converts by itself.

#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace qcow2 {

template <class Tag>
struct Position {
    std::uint64_t value = 0;

    constexpr Position() = default;
    constexpr explicit Position(std::uint64_t value) : value(value) {}

    friend constexpr auto operator<=>(const Position &, const Position &) = default;
    friend constexpr Position operator+(Position p, std::uint64_t n)
    {
        return Position(p.value + n);
    }
    friend constexpr std::uint64_t operator-(Position a, Position b) { return a.value - b.value; }
    constexpr Position &operator+=(std::uint64_t n)
    {
        value += n;
        return *this;
    }
    constexpr Position &operator++()
    {
        ++value;
        return *this;
    }
};

using GuestOffset = Position<struct GuestOffsetTag>;    // bytes
using HostOffset = Position<struct HostOffsetTag>;      // bytes
using GuestCluster = Position<struct GuestClusterTag>;  // index
using HostCluster = Position<struct HostClusterTag>;    // index

// Some clusters side by side in the file.
struct HostRun {
    HostCluster first;
    std::uint64_t count = 0;

    HostCluster end() const { return first + count; }
    friend bool operator==(const HostRun &, const HostRun &) = default;
};

}  // namespace qcow2

template <class Tag>
struct std::hash<qcow2::Position<Tag>> {
    std::size_t operator()(qcow2::Position<Tag> p) const noexcept
    {
        // Neighbours must not share a bucket chain: spread by a large odd number.
        return static_cast<std::size_t>(p.value * 0x9e3779b97f4a7c15u >> 16);
    }
};
