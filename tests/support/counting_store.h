// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// CountingStore: a store in memory that counts what is asked of it, and knows its
// holes: the pages that nobody wrote. For tests of what something costs. One thread.

#pragma once

#include <algorithm>
#include <cstdint>
#include <set>

#include "tests/support/memory_store.h"

namespace qcow2::test {

class CountingStore final : public MemoryStore {
public:
    explicit CountingStore(StoreImage image, StoreOptions options = {})
        : MemoryStore(image, options)
    {
        image.bytes.for_each_page([&](std::uint64_t offset, Bytes) { pages_.insert(offset); });
    }

    std::uint64_t reads = 0;
    std::uint64_t bytes_read = 0;
    std::uint64_t writes = 0;
    std::uint64_t bytes_written = 0;
    std::uint64_t flushes = 0;
    std::uint64_t stretches = 0;
    void forget() { reads = bytes_read = writes = bytes_written = flushes = stretches = 0; }

    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        ++reads;
        bytes_read += bytes.size();
        return MemoryStore::read(offset, bytes);
    }
    Result<void> write(std::uint64_t offset, Bytes bytes) override
    {
        ++writes;
        bytes_written += bytes.size();
        for (std::uint64_t at = page_of(offset); at < offset + bytes.size();
             at += SparseBytes::page_size)
            pages_.insert(at);
        return MemoryStore::write(offset, bytes);
    }
    Result<void> flush() override
    {
        ++flushes;
        return MemoryStore::flush();
    }
    Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override
    {
        ++stretches;
        const std::uint64_t end = offset + length_max;
        const auto next = pages_.lower_bound(page_of(offset));
        if (next == pages_.end() || *next >= end)
            return {length_max, true};
        if (*next > offset)
            return {*next - offset, true};
        std::uint64_t at = *next;
        for (auto page = next; page != pages_.end() && *page == at && at < end; ++page)
            at += SparseBytes::page_size;
        return {std::min(at, end) - offset, false};
    }

private:
    static std::uint64_t page_of(std::uint64_t offset)
    {
        return align_down(offset, SparseBytes::page_size);
    }

    std::set<std::uint64_t> pages_;
};

}  // namespace qcow2::test
