// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// SparseBits: a set of bits of which few are set. A sector of 4096 bits takes
// memory (512 bytes) when the first of its bits is set, and so do the places of
// 512 sectors (4 KiB): an empty set is made in no time, however large it is.
//
// Any thread may set bits and look at them, without a lock; no bit is cleared.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/base/range.h"
#include "core/base/slots.h"

namespace qcow2 {

class SparseBits {
public:
    static constexpr std::uint64_t word_bits = 64;
    static constexpr std::uint64_t sector_words = 64;
    static constexpr std::uint64_t sector_bits = word_bits * sector_words;

    explicit SparseBits(std::uint64_t size);

    std::uint64_t size() const { return size_; }  // bits

    // std::bad_alloc; then some of them are set.
    void set(Range bits);
    // Sets what is set in the value, of the 64 bits that begin at number * 64.
    void set_word(std::uint64_t number, std::uint64_t value);
    // Sets what is set in the other, as far as this one goes.
    void set_all_of(const SparseBits &other);

    std::uint64_t word(std::uint64_t number) const;
    std::uint64_t count() const;
    // From `begin` on, `begin` itself included; size() if there is none.
    std::uint64_t next_set(std::uint64_t begin) const;
    std::uint64_t next_clear(std::uint64_t begin) const;

private:
    static constexpr std::uint64_t branch_sectors = 512;

    using Sector = std::array<std::atomic<std::uint64_t>, sector_words>;
    using Branch = Slots<Sector, branch_sectors>;
    const Sector *sector(std::uint64_t number) const;
    template <class Value>
    std::uint64_t next(std::uint64_t begin, Value value, bool skips_empty) const;

    const std::uint64_t size_;
    SlotVector<Branch> branches_;
};

}  // namespace qcow2
