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

const SparseBytes::Page *SparseBytes::page(std::uint64_t index) const
{
    const auto folder = folders_.find(index / folder_pages);
    return folder == folders_.end() ? nullptr : (*folder->second)[index % folder_pages].get();
}

std::shared_ptr<SparseBytes::Page> &SparseBytes::slot(std::uint64_t index)
{
    std::shared_ptr<Folder> &folder = folders_[index / folder_pages];
    if (!folder)
        folder = std::make_shared<Folder>();
    else if (folder.use_count() != 1)
        folder = std::make_shared<Folder>(*folder);
    return (*folder)[index % folder_pages];
}

SparseBytes::Page &SparseBytes::writable(std::uint64_t index)
{
    std::shared_ptr<Page> &page = slot(index);
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
                   if (const Page *there = page(index))
                       std::memcpy(bytes.data() + at, there->data() + in_page, n);
                   else
                       std::memset(bytes.data() + at, 0, n);
               });
}

void SparseBytes::write(std::uint64_t offset, Bytes bytes)
{
    for_pieces(offset, bytes.size(),
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t at, std::uint64_t n) {
                   if (!page(index) && all_zero(sub(bytes, at, n)))
                       return;
                   std::memcpy(writable(index).data() + in_page, bytes.data() + at, n);
               });
}

void SparseBytes::zero(std::uint64_t offset, std::uint64_t length)
{
    const Range range = Range::of(offset, length);
    constexpr std::uint64_t folder_bytes = folder_pages * page_size;
    const Range whole = range.whole(folder_bytes);
    if (!whole.empty()) {
        std::erase_if(folders_, [&](const auto &folder) {
            return whole.contains({folder.first, folder.first + 1});
        });
        zero(range.begin, whole.begin * folder_bytes - range.begin);
        zero(whole.end * folder_bytes, range.end - whole.end * folder_bytes);
        return;
    }
    for_pieces(offset, length,
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t, std::uint64_t n) {
                   if (!page(index))
                       return;
                   if (n == page_size)
                       slot(index) = nullptr;
                   else
                       std::memset(writable(index).data() + in_page, 0, n);
               });
}

void SparseBytes::fill_garbage(std::uint64_t offset, std::uint64_t length)
{
    for_pieces(offset, length,
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t, std::uint64_t n) {
                   if (n == page_size)
                       slot(index) = garbage();
                   else
                       std::memcpy(writable(index).data() + in_page, garbage()->data(), n);
               });
}

bool SparseBytes::holds(std::uint64_t offset, Bytes bytes) const
{
    bool all = true;
    for_pieces(offset, bytes.size(),
               [&](std::uint64_t index, std::uint64_t in_page, std::uint64_t at, std::uint64_t n) {
                   const Page *there = page(index);
                   all = all &&
                         (there ? std::memcmp(bytes.data() + at, there->data() + in_page, n) == 0
                                : all_zero(sub(bytes, at, n)));
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
    std::vector<std::uint64_t> numbers;
    for (const auto &folder : folders_)
        numbers.push_back(folder.first);
    std::ranges::sort(numbers);
    for (const std::uint64_t number : numbers)
        for (std::uint64_t i = 0; i < folder_pages; ++i)
            if (const auto &there = (*folders_.at(number))[i])
                function((number * folder_pages + i) * page_size, *there);
}

std::uint64_t SparseBytes::first_difference(const SparseBytes &a, const SparseBytes &b)
{
    std::uint64_t first = ~std::uint64_t(0);
    const auto look = [&](const SparseBytes &here, const SparseBytes &there) {
        for (const auto &[number, folder] : here.folders_) {
            const auto twin = there.folders_.find(number);
            if (twin != there.folders_.end() && twin->second == folder)
                continue;
            for (std::uint64_t i = 0; i < folder_pages; ++i) {
                const Page *page = (*folder)[i].get();
                const Page *other =
                    twin == there.folders_.end() ? nullptr : (*twin->second)[i].get();
                if (page && page != other && !(other ? *other == *page : all_zero(*page)))
                    first = std::min(first, (number * folder_pages + i) * page_size);
            }
        }
    };
    look(a, b);
    look(b, a);
    return first;
}

}  // namespace qcow2::test
