// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// TouchedBits: the bits that were set since the bitmap was last stored. Sparse:
// pages of 4 KiB come with the first bit in them, so that a bitmap costs
// memory only where the disk is written.
//
// set() may be called from any thread, and costs one load per word if the bits
// are set already; it takes no lock. All else: nobody else is inside.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/range.h"

namespace qcow2 {

class TouchedBits {
public:
    static constexpr std::uint64_t page_bytes = 4096;
    static constexpr std::uint64_t page_bits = page_bytes * 8;

    explicit TouchedBits(std::uint64_t bits);
    ~TouchedBits();
    TouchedBits(TouchedBits &&) = default;
    TouchedBits(const TouchedBits &) = delete;
    TouchedBits &operator=(const TouchedBits &) = delete;

    void set(Range bits);

    bool none() const;
    std::uint64_t count() const;
    void clear();

    // Pages by number; false if no bit in it was ever set. The bytes are in
    // the order of a bitmap on disk.
    std::uint64_t pages() const { return pages_.size(); }
    bool load_page(std::uint64_t page, MutableBytes bytes) const;

private:
    static constexpr std::uint64_t word_bits = 64;
    static constexpr std::uint64_t page_words = page_bits / word_bits;
    using Word = std::atomic<std::uint64_t>;  // bit n of a page: word n / 64, bit n % 64
    using Page = std::array<Word, page_words>;

    Page &page(std::uint64_t number);

    std::vector<std::atomic<Page *>> pages_;
};

}  // namespace qcow2
