// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/touched_bits.h"

#include <bit>

#include <boost/endian/conversion.hpp>

namespace qcow2 {

TouchedBits::TouchedBits(std::uint64_t bits) : pages_(div_ceil(bits, page_bits)) {}

TouchedBits::~TouchedBits() { clear(); }

// Two threads may make one page: the one whose page stays was first.
TouchedBits::Page &TouchedBits::page(std::uint64_t number)
{
    Page *there = pages_[number].load(std::memory_order_acquire);
    if (there)
        return *there;
    auto mine = std::make_unique<Page>();
    if (pages_[number].compare_exchange_strong(there, mine.get(), std::memory_order_acq_rel))
        return *mine.release();
    return *there;
}

void TouchedBits::set(Range bits)
{
    while (!bits.empty()) {
        Page &words = page(bits.begin / page_bits);
        const std::uint64_t page_end =
            std::min(bits.end, (bits.begin / page_bits + 1) * page_bits);
        while (bits.begin < page_end) {
            const std::uint64_t word_end =
                std::min(page_end, (bits.begin / word_bits + 1) * word_bits);
            const std::uint64_t mask = ~std::uint64_t(0) >> (word_bits - (word_end - bits.begin))
                                                                << (bits.begin % word_bits);
            Word &word = words[bits.begin % page_bits / word_bits];
            if ((word.load(std::memory_order_relaxed) & mask) != mask)
                word.fetch_or(mask, std::memory_order_relaxed);
            bits.begin = word_end;
        }
    }
}

bool TouchedBits::none() const
{
    for (const auto &page : pages_)
        if (page.load(std::memory_order_relaxed))
            return false;
    return true;
}

std::uint64_t TouchedBits::count() const
{
    std::uint64_t bits = 0;
    for (const auto &page : pages_)
        if (const Page *words = page.load(std::memory_order_acquire))
            for (const Word &word : *words)
                bits += std::popcount(word.load(std::memory_order_relaxed));
    return bits;
}

void TouchedBits::clear()
{
    for (auto &page : pages_)
        delete page.exchange(nullptr);
}

bool TouchedBits::load_page(std::uint64_t number, MutableBytes bytes) const
{
    const Page *words = pages_[number].load(std::memory_order_acquire);
    if (!words)
        return false;
    INVARIANT(bytes.size() == page_bytes);
    for (std::uint64_t i = 0; i < page_words; ++i) {
        const std::uint64_t word =
            boost::endian::native_to_little((*words)[i].load(std::memory_order_relaxed));
        __builtin_memcpy(&bytes[i * sizeof word], &word, sizeof word);
    }
    return true;
}

}  // namespace qcow2
