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

// As in PageImage::sectors.
std::uint8_t of(std::uint64_t sector) { return std::uint8_t(1u << sector); }

// These words of a sector.
DirtySector::Words words_of(std::uint64_t begin, std::uint64_t end)
{
    return begin == end ? 0 : ~DirtySector::Words(0) >> (64 - (end - begin)) << begin;
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

// Calls for each sector that is there and has some of these words of a page: its number, the
// sector, which of its words they are.
template <class Visit>
void DirtyBits::for_each_sector_of(const Page &page, Range words, Visit visit)
{
    for (std::uint64_t number = words.begin / sector_words; !words.empty(); ++number) {
        const std::uint64_t first = number * sector_words;
        const std::uint64_t end = std::min(words.end, first + sector_words);
        if (DirtySector *sector = page.sector(number))
            visit(number, *sector, words_of(words.begin - first, end - first));
        words.begin = end;
    }
}

// Of these bits of a page: calls words(sector, words) for whole words, and part(word in the page,
// bits) where they begin or end inside of one.
template <class Words, class Part>
void DirtyBits::split(Range bits, Words words, Part part)
{
    Range whole = bits.whole(word_bits);
    for_each_word({bits.begin, std::min(bits.end, whole.begin * word_bits)}, part);
    for_each_word({std::max(bits.begin, whole.end * word_bits), bits.end}, part);
    while (!whole.empty()) {
        const std::uint64_t sector = whole.begin / sector_words;
        const std::uint64_t first = sector * sector_words;
        const std::uint64_t end = std::min(whole.end, first + sector_words);
        words(sector, words_of(whole.begin - first, end - first));
        whole.begin = end;
    }
}

// A stream that runs from page to page.
bool DirtyBits::end_is_extra(std::uint64_t number) const
{
    const Page *page = loaded(number);
    if (!page || page->armings <= 1)
        return false;
    DirtySector *last = page->sector(page_sectors - 1);
    return last && last->durable(sector_words - 1) >> 63;
}

// How much is armed for one bit, in bits: the more armings there were near it
// lately, the more.
std::uint64_t DirtyBits::width(std::uint64_t number, Page &page) const
{
    if (page.armings == 0 && number > 0 && end_is_extra(number - 1))
        page.armings = 2;
    return std::min(page_bits, region_bits_ << widen_bits * page.armings);
}

// What is to stand in the file: everything that is precise, and everything on
// which a change may rely.
void DirtyBits::fill(std::uint64_t number, const Page &page, PageImage &image)
{
    image.page = number;
    image.content.resize(page_bytes);
    for_each_sector(page, [&](std::uint64_t i, const DirtySector &sector) {
        sector.fill(
            sub(MutableBytes(image.content), i * PageImage::sector_bytes, PageImage::sector_bytes));
    });
}

// And what is to be armed.
void DirtyBits::fill_regions(PageImage &image)
{
    const auto set = [&](std::uint64_t at, std::uint64_t bits) {
        std::uint8_t *word = &image.content[at * 8];
        boost::endian::store_little_u64(word, boost::endian::load_little_u64(word) | bits);
    };
    for (const Range &region : image.regions) {
        const Range words = region.whole(word_bits);
        std::fill_n(image.content.begin() + words.begin * 8, words.length() * 8, 0xff);
        for_each_word({region.begin, std::min(region.end, words.begin * word_bits)}, set);
        for_each_word({std::max(region.begin, words.end * word_bits), region.end}, set);
    }
}

void DirtyBits::count_extra(Page &page)
{
    std::uint64_t extra = 0;
    for_each_sector(page,
                    [&](std::uint64_t, const DirtySector &sector) { extra += sector.extra(); });
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
    const auto add = [&](std::uint64_t bit) {
        const std::uint64_t begin = align_down(bit, width);
        const std::uint64_t end = std::min(begin + width, here);
        if (!regions.empty() && begin <= regions.back().end)
            regions.back().end = end;
        else
            regions.push_back({begin, end});
    };
    for_each_sector(page, [&](std::uint64_t i, const DirtySector &sector) {
        for_each_bit(sector.in_doubt(), [&](std::uint64_t word) {
            const std::uint64_t first = i * sector_bits + word * word_bits;
            for_each_bit(sector.missing(word), [&](std::uint64_t bit) { add(first + bit); });
        });
    });
    return regions;
}

std::optional<PageImage> DirtyBits::arm(std::uint64_t number)
{
    Page *page = loaded(number);
    return page ? arm_regions(number, *page,
                              regions_around_missing(number, *page, width(number, *page)))
                : std::nullopt;
}

std::optional<PageImage> DirtyBits::arm_whole(std::uint64_t number)
{
    const Result<Page *> page = load(number);
    return page
               ? arm_regions(number, **page, {{0, std::min(page_bits, bits_ - number * page_bits)}})
               : std::nullopt;
}

std::optional<PageImage> DirtyBits::arm_regions(std::uint64_t number, Page &page,
                                                std::vector<Range> regions)
{
    PageImage image;
    image.regions = std::move(regions);
    // All that durable() needs is made here: then it is too late to fail.
    const auto make_words = [&](std::uint64_t i, DirtySector::Words words) {
        if (!page.made(i).are_armed(words))
            image.sectors |= of(i);
    };
    const auto make_part = [&](std::uint64_t at, std::uint64_t bits) {
        DirtySector &sector = page.made(at / sector_words);
        sector.make_room_for_rest();
        if (!sector.are_armed(at % sector_words, bits))
            image.sectors |= of(at / sector_words);
    };
    for (const Range &region : image.regions)
        split(region, make_words, make_part);
    if (image.sectors == 0)
        return std::nullopt;
    fill(number, page, image);
    fill_regions(image);
    page.armings = std::min(page.armings + 1, widest);
    page.unsure |= image.sectors;
    return image;
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
        for_each_sector_of(*page, region,
                           [&](std::uint64_t, DirtySector &sector, DirtySector::Words words) {
                               used |= sector.take_used(words);
                           });
        if (used && !all)
            continue;
        for_each_sector_of(*page, region,
                           [&](std::uint64_t i, DirtySector &sector, DirtySector::Words words) {
                               if (sector.cool(words))
                                   image.sectors |= of(i);
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
    for_each_sector(*page, [&](std::uint64_t i, DirtySector &sector) {
        if (sector.settle())
            image.sectors |= of(i);
    });
    page->armings = 0;
    extra_bits_ -= std::exchange(page->extra, 0);
    if (image.sectors == 0)
        return std::nullopt;
    fill(number, *page, image);
    page->unsure |= image.sectors;
    return image;
}

// What is durable and not known to be is in the file.
Result<void> DirtyBits::forget_refused(std::uint64_t number)
{
    Page *page = loaded(number);
    if (!page)
        return {};
    Buffer file(page_bytes);
    TRY(load_(number, file));
    for_each_sector(*page, [&](std::uint64_t i, DirtySector &sector) {
        for (std::uint64_t word = 0; word < sector_words; ++word)
            sector.forget(word, boost::endian::load_little_u64(
                                    &file[i * PageImage::sector_bytes + word * 8]));
    });
    return {};
}

void DirtyBits::durable(const PageImage &image)
{
    Page &page = *loaded(image.page);
    for (const Range &region : image.regions)
        split(
            region, [&](std::uint64_t i, DirtySector::Words words) { page.sector(i)->arm(words); },
            [&](std::uint64_t at, std::uint64_t bits) {
                page.sector(at / sector_words)->arm(at % sector_words, bits);
            });
    written(image);
    count_extra(page);
}

void DirtyBits::settled()
{
    for (std::uint64_t number = next_loaded(0); number < pages(); number = next_loaded(number + 1))
        for_each_sector(*loaded(number), [this](std::uint64_t, DirtySector &sector) {
            sector.settled(is_coarse());
        });
}

}  // namespace qcow2
