// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FrozenBits: a set of bits that does not change any more, built from its beginning to its
// end. It takes 16 bytes for each run of words (of 64 bits) that are alike, and nothing for
// words that are zero.
//
// One thread builds it; then any may look at it.

#pragma once

#include <cstdint>
#include <vector>

#include "core/base/range.h"

namespace qcow2 {

class FrozenBits {
public:
    static constexpr std::uint64_t word_bits = 64;

    // At most 2^54 bits: more than a disk has sectors.
    explicit FrozenBits(std::uint64_t size);

    // The 64 bits that begin at number * 64, as far as the set goes; after those of smaller
    // numbers. std::bad_alloc.
    void append(std::uint64_t number, std::uint64_t word)
    {
        if (word != 0)  // as few are: here, where the compiler sees it
            append_some(number, word);
    }

    std::uint64_t size() const { return size_; }    // bits
    std::uint64_t count() const { return count_; }  // of those that are set
    // From `begin` on, `begin` itself included; size() if there is none.
    std::uint64_t next_set(std::uint64_t begin) const;
    std::uint64_t next_clear(std::uint64_t begin) const;

private:
    struct Run {
        std::uint64_t first : 48;  // word
        std::uint64_t words : 16;
        std::uint64_t value;  // of each; not zero

        std::uint64_t end() const { return first + words; }
    };
    static constexpr std::uint64_t run_words_max = 0xffff;

    void append_some(std::uint64_t number, std::uint64_t word);
    std::vector<Run>::const_iterator run_with(std::uint64_t word) const;

    const std::uint64_t size_;
    std::uint64_t count_ = 0;
    std::vector<Run> runs_;
};

}  // namespace qcow2
