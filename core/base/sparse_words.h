// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// SparseWords: a table of 64-bit words in memory, most of which may be zero: memory
// for those pages of 512 in which one is not, and 8 bytes for each page before the
// last of these. One thread; std::bad_alloc, after which it is as it was.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/base/arith.h"
#include "core/base/invariant.h"

namespace qcow2 {

class SparseWords {
public:
    SparseWords() = default;
    explicit SparseWords(std::uint64_t size) : size_(size) {}
    SparseWords(SparseWords &&) = default;
    SparseWords &operator=(SparseWords &&) = default;
    SparseWords(const SparseWords &other) : size_(other.size_), pages_(other.pages_.size())
    {
        for (std::size_t i = 0; i < pages_.size(); ++i)
            if (other.pages_[i])
                pages_[i] = std::make_unique<Page>(*other.pages_[i]);
    }
    SparseWords &operator=(const SparseWords &other)
    {
        SparseWords copy(other);
        return *this = std::move(copy);
    }

    std::uint64_t size() const { return size_; }
    // The words that are new are zero.
    void grow(std::uint64_t size)
    {
        INVARIANT(size >= size_);
        size_ = size;
    }

    std::uint64_t operator[](std::uint64_t index) const
    {
        const std::uint64_t page = index / page_words;
        return page < pages_.size() && pages_[page] ? (*pages_[page])[index % page_words] : 0;
    }
    // What set() needs for this one: then it throws nothing.
    void prepare(std::uint64_t index)
    {
        INVARIANT(index < size_);
        const std::uint64_t page = index / page_words;
        if (page >= pages_.size())
            pages_.resize(page + 1);
        if (!pages_[page])
            pages_[page] = std::make_unique<Page>();
    }
    void set(std::uint64_t index, std::uint64_t word)
    {
        if ((*this)[index] == word)
            return;
        prepare(index);
        (*pages_[index / page_words])[index % page_words] = word;
    }

    // The first word at or behind this one that is not zero; size() if there is none.
    std::uint64_t next_set(std::uint64_t index) const
    {
        while (index < size_) {
            const std::uint64_t page = index / page_words;
            if (page >= pages_.size())
                return size_;
            if (!pages_[page])
                index = (page + 1) * page_words;
            else if ((*pages_[page])[index % page_words] != 0)
                return index;
            else
                ++index;
        }
        return size_;
    }

private:
    static constexpr std::uint64_t page_words = 512;
    using Page = std::array<std::uint64_t, page_words>;

    std::uint64_t size_ = 0;
    std::vector<std::unique_ptr<Page>> pages_;
};

}  // namespace qcow2
