// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// SparseBytes: 2^64 bytes, zero where nothing was written. A copy shares its
// pages, and the folders that hold 64 of them, with the original until one of
// them is written to, so that a thousand slightly different images cost little.
//
// No lock: one thread at a time; copies may go to other threads.

#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "core/base/bytes.h"
#include "core/base/range.h"

namespace qcow2::test {

class SparseBytes {
public:
    static constexpr std::uint64_t page_size = 4096;

    void read(std::uint64_t offset, MutableBytes bytes) const;
    void write(std::uint64_t offset, Bytes bytes);
    void zero(std::uint64_t offset, std::uint64_t length);
    // Bytes that nobody wrote and nobody should see.
    void fill_garbage(std::uint64_t offset, std::uint64_t length);

    // Whether these bytes are there.
    bool holds(std::uint64_t offset, Bytes bytes) const;

    Buffer copy(std::uint64_t offset, std::uint64_t length) const;

    // The pages that may differ from zero, ascending.
    void for_each_page(const std::function<void(std::uint64_t offset, Bytes)> &function) const;

    // The offset of the first page of which `a` and `b` do not hold the same;
    // ~0 if they are equal.
    static std::uint64_t first_difference(const SparseBytes &a, const SparseBytes &b);
    friend bool operator==(const SparseBytes &a, const SparseBytes &b)
    {
        return first_difference(a, b) == ~std::uint64_t(0);
    }

private:
    using Page = std::array<std::uint8_t, page_size>;
    static constexpr std::uint64_t folder_pages = 64;
    using Folder = std::array<std::shared_ptr<Page>, folder_pages>;

    // Null where all is zero.
    const Page *page(std::uint64_t index) const;
    std::shared_ptr<Page> &slot(std::uint64_t index);
    Page &writable(std::uint64_t index);
    static const std::shared_ptr<Page> &garbage();

    std::unordered_map<std::uint64_t, std::shared_ptr<Folder>> folders_;
};

}  // namespace qcow2::test
