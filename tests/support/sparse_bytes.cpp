// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/sparse_bytes.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace qcow2::test {

namespace {

constexpr std::uint64_t page_size = SparseBytes::page_size;

// Calls function(page index, offset in page, offset in range, length).
template <class Function>
void for_pieces(std::uint64_t offset, std::uint64_t length, Function function)
{
    for (std::uint64_t done = 0; done < length;) {
        const std::uint64_t in_page = (offset + done) % page_size;
        const std::uint64_t piece = std::min(length - done, page_size - in_page);
        function((offset + done) / page_size, in_page, done, piece);
        done += piece;
    }
}

}  // namespace

SparseBytes::Page &SparseBytes::writable(std::uint64_t index)
{
    std::shared_ptr<Page> &page = pages_[index];
    if (!page)
        page = std::make_shared<Page>();
    else if (page.use_count() != 1)
        page = std::make_shared<Page>(*page);
    return *page;
}

const std::shared_ptr<SparseBytes::Page> &SparseBytes::garbage()
{
    static const std::shared_ptr<Page> page = [] {
        auto made = std::make_shared<Page>();
        made->fill(0xdb);
        return made;
    }();
    return page;
}

void SparseBytes::read(std::uint64_t offset, MutableBytes bytes) const
{
    for_pieces(offset, bytes.size(),
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t at, std::uint64_t n) {
                   const auto page = pages_.find(index);
                   if (page == pages_.end())
                       std::memset(bytes.data() + at, 0, n);
                   else
                       std::memcpy(bytes.data() + at, page->second->data() + in_page, n);
               });
}

void SparseBytes::write(std::uint64_t offset, Bytes bytes)
{
    for_pieces(offset, bytes.size(),
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t at, std::uint64_t n) {
                   if (pages_.count(index) == 0 && all_zero(sub(bytes, at, n)))
                       return;
                   std::memcpy(writable(index).data() + in_page, bytes.data() + at, n);
               });
}

void SparseBytes::zero(std::uint64_t offset, std::uint64_t length)
{
    // Long ranges: only the pages that are there.
    if (length / page_size > pages_.size()) {
        const Range whole = Range::of(offset, length).whole(page_size);
        std::erase_if(pages_, [&](const auto &page) {
            return page.first >= whole.begin && page.first < whole.end;
        });
        if (!whole.empty()) {
            zero(offset, whole.begin * page_size - offset);
            zero(whole.end * page_size, offset + length - whole.end * page_size);
            return;
        }
    }
    for_pieces(offset, length,
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t, std::uint64_t n) {
                   if (n == page_size)
                       pages_.erase(index);
                   else if (pages_.count(index) != 0)
                       std::memset(writable(index).data() + in_page, 0, n);
               });
}

void SparseBytes::fill_garbage(std::uint64_t offset, std::uint64_t length)
{
    for_pieces(offset, length,
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t, std::uint64_t n) {
                   if (n == page_size)
                       pages_[index] = garbage();
                   else
                       std::memcpy(writable(index).data() + in_page, garbage()->data(), n);
               });
}

bool SparseBytes::holds(std::uint64_t offset, Bytes bytes) const
{
    bool all = true;
    for_pieces(offset, bytes.size(),
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t at, std::uint64_t n) {
                   const auto page = pages_.find(index);
                   all = all && (page == pages_.end()
                                     ? all_zero(sub(bytes, at, n))
                                     : std::memcmp(bytes.data() + at, page->second->data() + in_page, n) == 0);
               });
    return all;
}

Buffer SparseBytes::copy(std::uint64_t offset, std::uint64_t length) const
{
    Buffer bytes(length);
    read(offset, bytes);
    return bytes;
}

void SparseBytes::for_each_page(
    const std::function<void(std::uint64_t offset, Bytes)> &function) const
{
    std::vector<std::uint64_t> indices;
    for (const auto &page : pages_)
        indices.push_back(page.first);
    std::sort(indices.begin(), indices.end());
    for (const std::uint64_t index : indices)
        function(index * page_size, *pages_.at(index));
}

std::uint64_t SparseBytes::first_difference(const SparseBytes &a, const SparseBytes &b)
{
    std::uint64_t first = ~std::uint64_t(0);
    const auto look = [&](const SparseBytes &here, const SparseBytes &there) {
        for (const auto &[index, page] : here.pages_) {
            const auto other = there.pages_.find(index);
            const bool same = other == there.pages_.end()
                                  ? all_zero(*page)
                                  : other->second == page || *other->second == *page;
            if (!same)
                first = std::min(first, index * page_size);
        }
    };
    look(a, b);
    look(b, a);
    return first;
}

}  // namespace qcow2::test
