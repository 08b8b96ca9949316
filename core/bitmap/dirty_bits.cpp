// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/dirty_bits.h"

#include <bit>

#include <boost/endian/conversion.hpp>

namespace qcow2 {

DirtyBits::DirtyBits(std::uint64_t bits, std::uint64_t region_bits, Load load,
                     NextStored next_stored)
    : bits_(bits),
      region_bits_(region_bits),
      load_(std::move(load)),
      next_stored_(std::move(next_stored)),
      pages_(div_ceil(bits, page_bits)),
      groups_(div_ceil(pages_, group_pages))
{
    INVARIANT(std::has_single_bit(region_bits) && region_bits <= page_bits);
}

// Calls for each word that has precise bits: its number in the bitmap, the bits.
template <class Visit>
void DirtyBits::for_each_precise_word(Visit visit) const
{
    const auto visit_page = [&](std::uint64_t number) {
        const Page *page = loaded(number);
        for (std::uint64_t i = 0; page && i < page_sectors; ++i)
            if (DirtySector *sector = page->sector(i))
                for_each_bit(sector->words_precise(), [&](std::uint64_t word) {
                    if (const std::uint64_t bits = sector->precise(word))
                        visit(number * page_words + i * sector_words + word, bits);
                });
    };
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        const Group *group = groups_.find(g);
        for (std::uint64_t i = 0; group && i < group->precise.size(); ++i)
            for_each_bit(group->precise[i].load(std::memory_order_relaxed),
                         [&](std::uint64_t n) { visit_page(g * group_pages + i * 64 + n); });
    }
}

void DirtyBits::take_over(DirtyBits &other)
{
    INVARIANT(bits_ == other.bits_);
    groups_.swap(other.groups_);
    extra_bits_ = other.extra_bits_.exchange(extra_bits_);
}

std::uint64_t DirtyBits::next_loaded(std::uint64_t page) const
{
    while (page < pages_) {
        const Group *group = groups_.find(page / group_pages);
        if (!group)
            page = align_down(page, group_pages) + group_pages;
        else if (group->pages.find(page % group_pages))
            return page;
        else
            ++page;
    }
    return pages_;
}

// Before its first bit is set: who looks for precise bits, or for those that are not durable,
// looks nowhere else.
void DirtyBits::note_precise(std::uint64_t page, DirtySector &sector, std::uint64_t word)
{
    if (sector.note_precise(word))
        groups_.find(page / group_pages)
            ->precise[page % group_pages / 64]
            .fetch_or(std::uint64_t(1) << page % 64, std::memory_order_relaxed);
}

// Two threads may load one page: the first that is in stays. A page that is
// not in memory was never written to, so both have read the same.
Result<DirtyBits::Page *> DirtyBits::load(std::uint64_t number)
{
    if (Page *there = loaded(number))
        return there;
    Buffer bytes(page_bytes);
    TRY(load_(number, bytes));
    return &put_page(number, bytes);
}

DirtyBits::Page &DirtyBits::put_page(std::uint64_t number, Bytes content)
{
    Group &group = groups_.made(number / group_pages);
    auto mine = std::make_unique<Page>();
    for (std::uint64_t word = 0; word < page_words; ++word) {
        const std::uint64_t value = boost::endian::load_little_u64(&content[word * 8]);
        if (value == 0)
            continue;
        DirtySector &sector = mine->made(word / sector_words);
        if (is_coarse())
            sector.make_room_for_rest();
        note_precise(number, sector, word % sector_words);
        sector.load(word % sector_words, value);
    }
    return group.pages.put(number % group_pages, std::move(mine));
}

Result<bool> DirtyBits::mark(Range bits)
{
    bool durable = true;
    INVARIANT(bits.end <= bits_);
    while (!bits.empty()) {
        const std::uint64_t number = bits.begin / sector_bits;
        const std::uint64_t first = number * sector_bits;
        const std::uint64_t end = std::min(bits.end, first + sector_bits);
        Page &page = *TRY(load(number / page_sectors));
        DirtySector &sector = page.made(number % page_sectors);
        for_each_word({bits.begin - first, end - first}, [&](std::uint64_t at, std::uint64_t mask) {
            if ((sector.precise(at) & mask) != mask) {
                note_precise(number / page_sectors, sector, at);
                sector.set(at, mask);
            }
            sector.use(at);
            durable &= sector.is_durable(at, mask);
        });
        bits.begin = end;
    }
    return durable;
}

// Calls for each page that may have bits in the file and is not in memory: its number, the
// bytes.
template <class Visit>
Result<void> DirtyBits::for_each_not_loaded(Visit visit) const
{
    Buffer bytes;
    for (std::uint64_t page = 0; (page = next_stored_(page)) < pages();) {
        const std::uint64_t first = align_down(page, pages_at_once);
        const std::uint64_t end = std::min(first + pages_at_once, pages());
        page = end;
        std::uint64_t missing = first;
        while (missing < end && loaded(missing))
            ++missing;
        if (missing == end)
            continue;
        bytes.resize((end - first) * page_bytes);
        TRY(load_(first, bytes));
        for (std::uint64_t number = first; number < end; ++number)
            if (!loaded(number))
                visit(number, sub(Bytes(bytes), (number - first) * page_bytes, page_bytes));
    }
    return {};
}

Result<void> DirtyBits::load_all()
{
    return for_each_not_loaded(
        [this](std::uint64_t number, Bytes content) { put_page(number, content); });
}

Result<std::uint64_t> DirtyBits::count() const
{
    std::uint64_t bits = 0;
    for_each_precise_word(
        [&](std::uint64_t, std::uint64_t there) { bits += std::popcount(there); });
    TRY(for_each_not_loaded([&](std::uint64_t, Bytes content) {
        for (std::uint64_t word = 0; word < page_words; ++word)
            bits += std::popcount(boost::endian::load_little_u64(&content[word * 8]));
    }));
    return bits;
}

FrozenBits DirtyBits::copy_precise() const
{
    FrozenBits bits(bits_);
    for_each_precise_word(
        [&](std::uint64_t word, std::uint64_t there) { bits.append(word, there); });
    return bits;
}

void DirtyBits::replace_precise(const SparseBits &bits)
{
    const Buffer nothing(page_bytes);
    for (std::uint64_t bit = bits.next_set(0); bit < bits_;
         bit = bits.next_set((bit / sector_bits + 1) * sector_bits)) {
        Page *page = loaded(bit / page_bits);
        (page ? *page : put_page(bit / page_bits, nothing)).made(bit / sector_bits % page_sectors);
    }
    for (std::uint64_t number = next_loaded(0); number < pages(); number = next_loaded(number + 1))
        for_each_sector(*loaded(number), [](std::uint64_t, DirtySector &sector) {
            if (sector.words_precise() != 0)
                sector.make_room_for_rest();
        });
    // All memory is there: from here on nothing is thrown.
    for (std::size_t g = 0; g < groups_.size(); ++g)
        if (Group *group = groups_.find(g))
            for (auto &pages : group->precise)
                pages.store(0, std::memory_order_relaxed);
    for (std::uint64_t number = next_loaded(0); number < pages();
         number = next_loaded(number + 1)) {
        for_each_sector(*loaded(number), [&](std::uint64_t i, DirtySector &sector) {
            sector.begin_replacing();
            for (std::uint64_t word = 0; word < sector_words; ++word) {
                const std::uint64_t wanted =
                    bits.word(number * page_words + i * sector_words + word);
                sector.replace(word, wanted);
                if (wanted != 0)
                    note_precise(number, sector, word);
            }
        });
        count_extra(*loaded(number));
    }
}

}  // namespace qcow2
