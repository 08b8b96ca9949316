// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// DirtyBits: what the holder of the turn does: it arms pages, cools and settles them, and
// notes what is durable.

#include <bit>

#include <boost/endian/conversion.hpp>

#include "core/bitmap/dirty_bits.h"

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
std::uint8_t sector_of(std::uint64_t word)
{
    return std::uint8_t(1u << word * 8 / PageImage::sector_bytes);
}

}  // namespace

bool PageImage::touches(Range bytes) const
{
    bool any = false;
    for (std::uint64_t sector = bytes.begin / sector_bytes; sector * sector_bytes < bytes.end;
         ++sector)
        any |= sectors >> sector & 1;
    return any;
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
            for_each_bit(
                page.extra != 0 ? ~std::uint64_t(0) : sector->words_precise.load(),
                [&](std::uint64_t word) { visit(i * sector_words + word, sector->word(word)); });
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

// The regions of a page, so wide, in which something is precise and not durable. Those side
// by side are one.
std::vector<Range> DirtyBits::regions_around_missing(std::uint64_t number, const Page &page,
                                                     std::uint64_t width) const
{
    const std::uint64_t here = std::min(page_bits, bits_ - number * page_bits);
    std::vector<Range> regions;
    for_each_word_there(page, {0, page_words}, [&](std::uint64_t at, Word word) {
        for_each_bit(word.precise.load() & ~word.durable.load(), [&](std::uint64_t bit) {
            const std::uint64_t begin = align_down(at * word_bits + bit, width);
            const std::uint64_t end = std::min(begin + width, here);
            if (!regions.empty() && begin <= regions.back().end)
                regions.back().end = end;
            else
                regions.push_back({begin, end});
        });
    });
    return regions;
}

std::optional<PageImage> DirtyBits::arm(std::uint64_t number, bool whole)
{
    Page *page = loaded(number);
    if (!page)
        return std::nullopt;
    PageImage image;
    image.regions = regions_around_missing(number, *page, whole ? page_bits : width(number, *page));
    if (image.regions.empty())
        return std::nullopt;
    // Sectors are made here, so that durable() needs no memory: then it is too
    // late to fail.
    for (const Range &region : image.regions)
        for_each_word(region, [&](std::uint64_t at, std::uint64_t mask) {
            if ((mask & ~page->made(at / sector_words).word(at).durable.load()) != 0)
                image.sectors |= sector_of(at);
        });
    fill(number, *page, image);
    for (const Range &region : image.regions)
        for_each_word(region, [&](std::uint64_t at, std::uint64_t mask) {
            store_word(image.content, at, load_word(image.content, at) | mask);
        });
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
    for (const Range &region : image.regions)
        for_each_word(region, [&](std::uint64_t at, std::uint64_t mask) {
            page.sector(at / sector_words)->word(at).durable.fetch_or(mask);
        });
    written(image);
    count_extra(page);
}

void DirtyBits::settled()
{
    for (std::uint64_t number = next_loaded(0); number < pages(); number = next_loaded(number + 1))
        for_each_word_in_use(*loaded(number), [](std::uint64_t, Word word) {
            word.durable.store(word.precise.load());
        });
}

}  // namespace qcow2
