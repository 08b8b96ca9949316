// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/sparse_bits.h"

#include <algorithm>
#include <bit>

#include "core/base/arith.h"
#include "core/base/invariant.h"

namespace qcow2 {

SparseBits::SparseBits(std::uint64_t size)
    : size_(size), branches_(div_ceil(size, sector_bits * branch_sectors))
{
}

// nullptr if it is not there.
const SparseBits::Sector *SparseBits::sector(std::uint64_t number) const
{
    const Branch *branch = branches_.find(number / branch_sectors);
    return branch ? branch->find(number % branch_sectors) : nullptr;
}

void SparseBits::set(Range bits)
{
    INVARIANT(bits.end <= size_);
    for_each_word(bits, [this](std::uint64_t word, std::uint64_t mask) { set_word(word, mask); });
}

void SparseBits::set_word(std::uint64_t number, std::uint64_t value)
{
    if (value == 0)
        return;
    const std::uint64_t sector = number / sector_words;
    Branch &branch = branches_.made(sector / branch_sectors);
    auto &word = branch.made(sector % branch_sectors)[number % sector_words];
    // Where all are set already no cache line has to be fetched from another processor.
    if ((word.load(std::memory_order_relaxed) & value) != value)
        word.fetch_or(value, std::memory_order_relaxed);
}

void SparseBits::set_all_of(const SparseBits &other)
{
    for (std::uint64_t begin = other.next_set(0); begin < std::min(size_, other.size_);) {
        const std::uint64_t end = other.next_clear(begin);
        set({begin, std::min(end, size_)});
        begin = other.next_set(end);
    }
}

std::uint64_t SparseBits::word(std::uint64_t number) const
{
    const Sector *there = sector(number / sector_words);
    return there ? (*there)[number % sector_words].load(std::memory_order_relaxed) : 0;
}

std::uint64_t SparseBits::count() const
{
    std::uint64_t bits = 0;
    for (std::uint64_t bit = next_set(0); bit < size_;
         bit = next_set((bit / word_bits + 1) * word_bits))
        bits += std::popcount(word(bit / word_bits));
    return bits;
}

// The first bit from `begin` on that is set in value(its word). skips_empty: no bit
// of a sector that is not there is.
template <class Value>
std::uint64_t SparseBits::next(std::uint64_t begin, Value value, bool skips_empty) const
{
    while (begin < size_) {
        if (skips_empty && !sector(begin / sector_bits)) {
            begin = (begin / sector_bits + 1) * sector_bits;
            continue;
        }
        const std::uint64_t number = begin / word_bits;
        const std::uint64_t here = value(word(number)) & ~std::uint64_t(0) << begin % word_bits;
        if (here != 0)
            return std::min(size_, number * word_bits + std::countr_zero(here));
        begin = (number + 1) * word_bits;
    }
    return size_;
}

std::uint64_t SparseBits::next_set(std::uint64_t begin) const
{
    return next(
        begin, [](std::uint64_t word) { return word; }, true);
}

std::uint64_t SparseBits::next_clear(std::uint64_t begin) const
{
    return next(
        begin, [](std::uint64_t word) { return ~word; }, false);
}

}  // namespace qcow2
