// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Needed: which parts of a frozen disk its exports may be asked for. Of the rest
// nothing is kept.
//
// Counted in blocks of 4 KiB, what is kept as a whole. Any thread; no lock, no
// I/O, and what it says never changes.

#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/base/range.h"

namespace qcow2 {

constexpr std::uint64_t block_bytes = 4096;

class Needed {
public:
    virtual ~Needed() = default;

    struct Run {
        bool needed = false;
        std::uint64_t blocks = 0;  // at least 1
    };
    // What the first of these blocks is, and how many from there on are alike; not
    // necessarily all that are. The blocks are not empty.
    virtual Run run(Range blocks) const = 0;
};

// What a client reads to save what some bitmaps have dirty: each 64 KiB in which a
// bit is set, or a part of what it stands for.
class NeededAroundBits final : public Needed {
public:
    static constexpr std::uint64_t unit_bytes = 64 << 10;

    struct Bits {
        std::uint64_t granularity = 0;  // bytes, a power of two
        std::uint64_t count = 0;        // of bits
        // The first bit from there on that is set, or not; count if there is none. As for run().
        std::function<std::uint64_t(std::uint64_t bit, bool set)> next;
    };
    explicit NeededAroundBits(std::vector<Bits> bitmaps) : bitmaps_(std::move(bitmaps)) {}

    Run run(Range blocks) const override;

private:
    const std::vector<Bits> bitmaps_;
};

}  // namespace qcow2
