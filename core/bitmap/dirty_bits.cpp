// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/dirty_bits.h"

#include <bit>

#include <boost/endian/conversion.hpp>

namespace qcow2 {

namespace {

std::uint64_t load_word(Bytes bytes, std::uint64_t word)
{
    return boost::endian::load_little_u64(&bytes[word * 8]);
}

void store_word(Buffer &bytes, std::uint64_t word, std::uint64_t value)
{
    boost::endian::store_little_u64(&bytes[word * 8], value);
}

// As in PageImage::sectors.
std::uint8_t sector_of(std::uint64_t word) { return std::uint8_t(1u << word * 8 / PageImage::sector_bytes); }

}  // namespace

bool PageImage::touches(Range bytes) const
{
    bool any = false;
    for (std::uint64_t sector = bytes.begin / sector_bytes; sector * sector_bytes < bytes.end; ++sector)
        any |= sectors >> sector & 1;
    return any;
}

DirtyBits::DirtyBits(std::uint64_t bits, std::uint64_t region_bits, Load load)
    : bits_(bits), region_bits_(region_bits), load_(std::move(load)),
      pages_(div_ceil(bits, page_bits)), groups_(div_ceil(pages_, group_pages))
{
    INVARIANT(std::has_single_bit(region_bits) && region_bits <= page_bits);
}

// Calls for each of these words of a page whose sector is there: its number in
// the page, the word.
template <class Visit>
void DirtyBits::for_each_word_there(const Page &page, Range words, Visit visit)
{
    while (!words.empty()) {
        const std::uint64_t number = words.begin / sector_words;
        const std::uint64_t end = std::min(words.end, (number + 1) * sector_words);
        if (Sector *sector = page.sector(number))
            for (std::uint64_t word = words.begin; word < end; ++word)
                visit(word, sector->word(word));
        words.begin = end;
    }
}

// Calls for each word of a page that may have a bit of either kind: its number in the page,
// the word. (Where nothing is extra the words with precise bits are all.)
template <class Visit>
void DirtyBits::for_each_word_in_use(const Page &page, Visit visit)
{
    for (std::uint64_t i = 0; i < page_sectors; ++i)
        if (Sector *sector = page.sector(i))
            for_each_bit(page.extra != 0 ? ~std::uint64_t(0) : sector->words_precise.load(),
                         [&](std::uint64_t word) { visit(i * sector_words + word, sector->word(word)); });
}

// Calls for each word that has precise bits: its number in the bitmap, the bits.
template <class Visit>
void DirtyBits::for_each_precise_word(Visit visit) const
{
    const auto visit_page = [&](std::uint64_t number) {
        const Page *page = loaded(number);
        for (std::uint64_t i = 0; page && i < page_sectors; ++i)
            if (Sector *sector = page->sector(i))
                for_each_bit(sector->words_precise.load(std::memory_order_relaxed), [&](std::uint64_t word) {
                    if (const std::uint64_t bits = sector->precise[word].load(std::memory_order_relaxed))
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

void DirtyBits::note_precise(std::uint64_t page, Sector &sector, std::uint64_t word)
{
    const auto set = [](std::atomic<std::uint64_t> &mask, std::uint64_t number) {
        const std::uint64_t bit = std::uint64_t(1) << number % 64;
        return !(mask.load(std::memory_order_relaxed) & bit) &&
               !(mask.fetch_or(bit, std::memory_order_relaxed) & bit);
    };
    if (set(sector.words_precise, word))
        set(groups_.find(page / group_pages)->precise[page % group_pages / 64], page);
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
        const std::uint64_t value = load_word(content, word);
        if (value == 0)
            continue;
        Sector &sector = mine->made(word / sector_words);
        const Word there = sector.word(word);
        note_precise(number, sector, word);
        there.precise.store(value, std::memory_order_relaxed);
        there.durable.store(value, std::memory_order_relaxed);
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
        Sector &sector = page.made(number % page_sectors);
        for_each_word({bits.begin - first, end - first}, [&](std::uint64_t at, std::uint64_t mask) {
            const Word word = sector.word(at);
            if ((word.precise.load() & mask) != mask) {
                word.precise.fetch_or(mask);
                note_precise(number / page_sectors, sector, at);
            }
            if (!word.used.load(std::memory_order_relaxed))
                word.used.store(true, std::memory_order_relaxed);
            durable &= (word.durable.load() & mask) == mask;
        });
        bits.begin = end;
    }
    return durable;
}

Result<void> DirtyBits::load_all()
{
    Buffer bytes;
    for (std::uint64_t first = 0; first < pages(); first += pages_at_once) {
        const std::uint64_t end = std::min(first + pages_at_once, pages());
        bool missing = false;
        for (std::uint64_t number = first; number < end; ++number)
            missing |= !loaded(number);
        if (!missing)
            continue;
        bytes.resize((end - first) * page_bytes);
        TRY(load_(first, bytes));
        for (std::uint64_t number = first; number < end; ++number)
            if (!loaded(number))
                put_page(number, sub(Bytes(bytes), (number - first) * page_bytes, page_bytes));
    }
    return {};
}

std::uint64_t DirtyBits::count_precise() const
{
    std::uint64_t bits = 0;
    for_each_precise_word([&](std::uint64_t, std::uint64_t there) { bits += std::popcount(there); });
    return bits;
}

FrozenBits DirtyBits::copy_precise() const
{
    FrozenBits bits(bits_);
    for (std::uint64_t number = 0; number < pages(); ++number)
        INVARIANT(loaded(number));
    for_each_precise_word([&](std::uint64_t word, std::uint64_t there) { bits.append(word, there); });
    return bits;
}

void DirtyBits::replace_precise(const SparseBits &bits)
{
    for (std::size_t g = 0; g < groups_.size(); ++g)
        for (auto &pages : groups_.made(g).precise)
            pages.store(0, std::memory_order_relaxed);
    for (std::uint64_t bit = bits.next_set(0); bit < bits_; bit = bits.next_set((bit / sector_bits + 1) * sector_bits))
        loaded(bit / page_bits)->made(bit / sector_bits % page_sectors);
    for (std::uint64_t number = 0; number < pages(); ++number) {
        Page *page = loaded(number);
        INVARIANT(page);
        for (std::uint64_t i = 0; i < page_sectors; ++i)
            if (Sector *sector = page->sector(i)) {
                sector->words_precise.store(0, std::memory_order_relaxed);
                for (std::uint64_t word = 0; word < sector_words; ++word) {
                    const std::uint64_t wanted = bits.word(number * page_words + i * sector_words + word);
                    sector->precise[word].store(wanted);
                    if (wanted != 0)
                        note_precise(number, *sector, word);
                }
            }
        count_extra(*page);
    }
}

// A stream that runs from page to page.
bool DirtyBits::end_is_extra(std::uint64_t number) const
{
    const Page *page = loaded(number);
    if (!page || page->armings <= 1)
        return false;
    Sector *last = page->sector(page_sectors - 1);
    return last && last->word(page_words - 1).durable.load() >> 63;
}

// How much is armed for one bit, in bits: the more armings there were near it
// lately, the more.
std::uint64_t DirtyBits::width(std::uint64_t number, Page &page) const
{
    if (page.armings == 0 && number > 0 && end_is_extra(number - 1))
        page.armings = 4;
    return std::min(page_bits, region_bits_ << page.armings);
}

// What is to stand in the file: everything that is precise, and everything on
// which a change may rely.
void DirtyBits::fill(std::uint64_t number, const Page &page, PageImage &image)
{
    image.page = number;
    image.content.resize(page_bytes);
    for_each_word_there(page, {0, page_words}, [&](std::uint64_t at, Word word) {
        store_word(image.content, at, word.precise.load() | word.durable.load());
    });
}

void DirtyBits::count_extra(Page &page)
{
    std::uint64_t extra = 0;
    for_each_word_there(page, {0, page_words}, [&](std::uint64_t, Word word) {
        extra += std::popcount(word.durable.load() & ~word.precise.load());
    });
    extra_bits_ += extra - page.extra;
    page.extra = extra;
}

std::optional<PageImage> DirtyBits::arm(std::uint64_t number)
{
    Page *page = loaded(number);
    if (!page)
        return std::nullopt;
    PageImage image;
    std::array<std::uint64_t, page_words> wanted{};
    const std::uint64_t width = this->width(number, *page);
    const std::uint64_t here = std::min(page_bits, bits_ - number * page_bits);
    for_each_word_there(*page, {0, page_words}, [&](std::uint64_t at, Word word) {
        std::uint64_t missing = word.precise.load() & ~word.durable.load();
        while (missing != 0) {
            const std::uint64_t bit = at * word_bits + std::countr_zero(missing);
            const std::uint64_t begin = bit / width * width;
            const Range region{begin, std::min(begin + width, here)};
            for_each_word(region, [&](std::uint64_t w, std::uint64_t mask) { wanted[w] |= mask; });
            missing &= ~wanted[at];
        }
    });
    // Sectors are made here, so that durable() needs no memory: then it is too
    // late to fail.
    for (std::uint64_t word = 0; word < page_words; ++word) {
        if (wanted[word] == 0)
            continue;
        if ((wanted[word] & ~page->made(word / sector_words).word(word).durable.load()) != 0)
            image.sectors |= sector_of(word);
    }
    if (image.sectors == 0)
        return std::nullopt;
    fill(number, *page, image);
    for (std::uint64_t word = 0; word < page_words; ++word)
        store_word(image.content, word, load_word(image.content, word) | wanted[word]);
    page->armings = std::min(page->armings + 1, widest);
    page->unsure |= image.sectors;
    return image;
}

// True if the word has lost bits. Those that a change has made precise
// meanwhile are put back: it may have seen them durable, and they are.
bool DirtyBits::cool_word(Word word)
{
    const std::uint64_t before = word.durable.load();
    const std::uint64_t extra = before & ~word.precise.load();
    if (extra == 0)
        return false;
    word.durable.fetch_and(~extra);
    word.durable.fetch_or(extra & word.precise.load());
    return true;
}

std::optional<PageImage> DirtyBits::cool(std::uint64_t number, bool all)
{
    Page *page = loaded(number);
    if (!page)
        return std::nullopt;
    page->armings /= 2;
    if (page->extra == 0)  // no more than that
        return std::nullopt;
    PageImage image;
    const std::uint64_t region_words = std::max<std::uint64_t>(1, region_bits_ / word_bits);
    for (std::uint64_t first = 0; first < page_words; first += region_words) {
        const Range region{first, first + region_words};
        bool used = false;
        for_each_word_there(*page, region, [&](std::uint64_t, Word word) {
            if (!word.used.load(std::memory_order_relaxed))
                return;
            used = true;
            word.used.store(false, std::memory_order_relaxed);
        });
        if (used && !all)
            continue;
        for_each_word_there(*page, region, [&](std::uint64_t at, Word word) {
            if (cool_word(word))
                image.sectors |= sector_of(at);
        });
    }
    count_extra(*page);
    if (image.sectors == 0)
        return std::nullopt;
    fill(number, *page, image);
    page->unsure |= image.sectors;
    return image;
}

std::optional<PageImage> DirtyBits::settle(std::uint64_t number)
{
    Page *page = loaded(number);
    if (!page)
        return std::nullopt;
    PageImage image;
    image.sectors = page->unsure;
    for_each_word_in_use(*page, [&](std::uint64_t at, Word word) {
        const std::uint64_t precise = word.precise.load();
        if (word.durable.load() == precise)
            return;
        word.durable.fetch_and(precise);
        image.sectors |= sector_of(at);
    });
    page->armings = 0;
    extra_bits_ -= std::exchange(page->extra, 0);
    if (image.sectors == 0)
        return std::nullopt;
    fill(number, *page, image);
    page->unsure |= image.sectors;
    return image;
}

void DirtyBits::forget_refused(std::uint64_t number)
{
    if (Page *page = loaded(number))
        for_each_word_there(*page, {0, page_words}, [](std::uint64_t, Word word) {
            word.precise.fetch_and(word.durable.load());
        });
}

void DirtyBits::durable(const PageImage &image)
{
    Page &page = *loaded(image.page);
    for_each_word_there(page, {0, page_words}, [&](std::uint64_t at, Word word) {
        if (image.sectors & sector_of(at))
            word.durable.fetch_or(load_word(image.content, at));
    });
    written(image);
    count_extra(page);
}

void DirtyBits::settled()
{
    for (std::uint64_t number = next_loaded(0); number < pages(); number = next_loaded(number + 1))
        for_each_word_in_use(*loaded(number), [](std::uint64_t, Word word) { word.durable.store(word.precise.load()); });
}

}  // namespace qcow2
