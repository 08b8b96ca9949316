// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/frozen_bits.h"

#include <algorithm>
#include <bit>

#include "core/base/invariant.h"

namespace qcow2 {

FrozenBits::FrozenBits(std::uint64_t size) : size_(size)
{
    INVARIANT(size <= std::uint64_t(1) << 54);
}

void FrozenBits::append_some(std::uint64_t number, std::uint64_t word)
{
    INVARIANT(runs_.empty() || number >= runs_.back().end());
    if (number >= size_ / word_bits)
        word &= number == size_ / word_bits ? ~(~std::uint64_t(0) << size_ % word_bits) : 0;
    if (word == 0)
        return;
    count_ += std::popcount(word);
    if (!runs_.empty() && runs_.back().end() == number && runs_.back().value == word &&
        runs_.back().words < run_words_max)
        ++runs_.back().words;
    else
        runs_.push_back({number, 1, word});
}

// The run that has this word, or else the next one.
std::vector<FrozenBits::Run>::const_iterator FrozenBits::run_with(std::uint64_t word) const
{
    return std::partition_point(runs_.begin(), runs_.end(),
                                [word](const Run &run) { return run.end() <= word; });
}

std::uint64_t FrozenBits::next_set(std::uint64_t begin) const
{
    auto run = run_with(begin / word_bits);
    if (run != runs_.end() && run->first <= begin / word_bits) {
        // In the word of `begin`, in the next one of the run, which is like it, or in the next run.
        const std::uint64_t word = begin / word_bits;
        const std::uint64_t here = run->value & ~std::uint64_t(0) << begin % word_bits;
        if (here != 0)
            return word * word_bits + std::countr_zero(here);
        if (word + 1 < run->end())
            return (word + 1) * word_bits + std::countr_zero(run->value);
        ++run;
    }
    return run == runs_.end() ? size_ : run->first * word_bits + std::countr_zero(run->value);
}

std::uint64_t FrozenBits::next_clear(std::uint64_t begin) const
{
    for (auto run = run_with(begin / word_bits); begin < size_ && run != runs_.end(); ++run) {
        const std::uint64_t word = begin / word_bits;
        if (run->first > word)
            break;
        const std::uint64_t here = ~run->value & ~std::uint64_t(0) << begin % word_bits;
        if (here != 0)
            return std::min(size_, word * word_bits + std::countr_zero(here));
        if (~run->value != 0 && word + 1 < run->end())
            return std::min(size_, (word + 1) * word_bits + std::countr_zero(~run->value));
        begin = run->value == ~std::uint64_t(0) ? run->end() * word_bits : (word + 1) * word_bits;
    }
    return std::min(begin, size_);
}

}  // namespace qcow2
