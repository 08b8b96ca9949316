// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/bit_vector.h"

#include <bit>
#include <cstring>

namespace qcow2 {

namespace {

using boost::endian::little_to_native;
using boost::endian::native_to_little;

// The bits of a word from `from` on, and those before `end`; 0 to 63.
constexpr std::uint64_t mask_from(std::uint64_t from) { return ~std::uint64_t(0) << from; }
constexpr std::uint64_t mask_before(std::uint64_t end) { return ~mask_from(end); }

}  // namespace

BitVector::BitVector(std::uint64_t bits, bool value)
    : size_(bits), words_(div_ceil(bits, word_bits), value ? ~std::uint64_t(0) : 0)
{
    clear_tail();
}

void BitVector::clear_tail()
{
    if (size_ % word_bits != 0)
        words_.back() &= native_to_little(mask_before(size_ % word_bits));
}

template <bool value>
void BitVector::fill(Range bits)
{
    if (bits.empty())
        return;
    INVARIANT(bits.end <= size_);
    const auto apply = [this](std::uint64_t word, std::uint64_t mask) {
        if constexpr (value)
            words_[word] |= native_to_little(mask);
        else
            words_[word] &= ~native_to_little(mask);
    };
    const std::uint64_t first = bits.begin / word_bits;
    const std::uint64_t last = (bits.end - 1) / word_bits;
    std::uint64_t head = mask_from(bits.begin % word_bits);
    const std::uint64_t tail = ~std::uint64_t(0) >> (word_bits - 1 - (bits.end - 1) % word_bits);
    if (first == last) {
        apply(first, head & tail);
        return;
    }
    apply(first, head);
    for (std::uint64_t word = first + 1; word < last; ++word)
        words_[word] = value ? ~std::uint64_t(0) : 0;
    apply(last, tail);
}

void BitVector::set(Range bits) { fill<true>(bits); }
void BitVector::clear(Range bits) { fill<false>(bits); }

template <bool value>
std::uint64_t BitVector::next(std::uint64_t from, std::uint64_t end) const
{
    if (from >= end)
        return size_;
    const auto sought = [this](std::uint64_t word) {
        return little_to_native(value ? words_[word] : ~words_[word]);
    };
    const std::uint64_t words_end = div_ceil(end, word_bits);
    std::uint64_t word = from / word_bits;
    std::uint64_t hits = sought(word) & mask_from(from % word_bits);
    while (hits == 0 && ++word < words_end)
        hits = sought(word);
    if (hits == 0)
        return size_;
    // Behind the last bit zeros stand: seeking those finds them there.
    return std::min<std::uint64_t>(word * word_bits + std::countr_zero(hits), size_);
}

std::uint64_t BitVector::next_set_before(std::uint64_t from, std::uint64_t end) const
{
    INVARIANT(end <= size_);
    return next<true>(from, end);
}

std::uint64_t BitVector::next_clear_before(std::uint64_t from, std::uint64_t end) const
{
    INVARIANT(end <= size_);
    return next<false>(from, end);
}

std::uint64_t BitVector::next_set(std::uint64_t from) const { return next<true>(from, size_); }
std::uint64_t BitVector::next_clear(std::uint64_t from) const { return next<false>(from, size_); }

std::uint64_t BitVector::count(Range bits) const
{
    if (bits.empty())
        return 0;
    INVARIANT(bits.end <= size_);
    const std::uint64_t first = bits.begin / word_bits;
    const std::uint64_t last = (bits.end - 1) / word_bits;
    std::uint64_t sum = 0;
    for (std::uint64_t word = first; word <= last; ++word)
        sum += std::popcount(words_[word]);
    sum -= std::popcount(little_to_native(words_[first]) & mask_before(bits.begin % word_bits));
    if (bits.end % word_bits != 0)
        sum -= std::popcount(little_to_native(words_[last]) & mask_from(bits.end % word_bits));
    return sum;
}

void BitVector::or_with(const BitVector &other)
{
    INVARIANT(other.size_ == size_);
    for (std::size_t word = 0; word < words_.size(); ++word)
        words_[word] |= other.words_[word];
}

Bytes BitVector::bytes() const
{
    const Bytes all(reinterpret_cast<const std::uint8_t *>(words_.data()),
                    words_.size() * sizeof words_[0]);
    return sub(all, 0, div_ceil(size_, 8));
}

void BitVector::load(std::uint64_t offset, Bytes bytes)
{
    if (bytes.empty())
        return;
    INVARIANT(fits(offset, bytes.size(), div_ceil(size_, 8)));
    std::memcpy(reinterpret_cast<std::uint8_t *>(words_.data()) + offset, bytes.data(),
                bytes.size());
    clear_tail();
}

}  // namespace qcow2
