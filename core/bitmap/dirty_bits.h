// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// DirtyBits: one dirty bitmap in memory. Sparse: pages of 4 KiB of bits come
// from the file with the first touch, and of a page those sectors (512 bytes)
// are in memory that have a bit, or had one, or are armed: 0.6 KiB for each. What nobody touched
// costs 8 bytes for each 2 MiB of bits, and so little to pass over (next_loaded()).
//
// Of each bit two things are known:
//
//   precise   the granule was changed: what the bitmap is to say in the end.
//   durable   the bit is known to be set in the file, durably. Set where it is
//             not precise, it is *extra*: a bit of an armed region.
//
// A change goes down only when all its bits are durable (B2), or the bitmap is
// marked in_use (B1). mark() makes them precise *first* and looks *then*
// whether they are durable; the thread that takes a durable bit away looks
// *afterwards* whether it has become precise, and then it stays so. So one of the two
// sees the other, and no lock is needed. How, and in what words, is in dirty_bits_sector.h.
//
// mark() may be called from any thread. All else is for the thread that holds the
// turn (Arming::turn_): of one sector of a bitmap at most one write is in flight (B3).
// What is to be written is always built from precise *or* durable, so it has
// every bit on which a change that is under way relies.
//
// A sector that is not there has no bit. Any thread makes one, and none goes
// away before the end. The holder of the turn may miss one that mark() is just
// making: nothing in it is durable, so that change will ask for the turn itself. It
// sees all sectors with a durable bit: such a bit came with the page, or in a turn.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/range.h"
#include "core/base/result.h"
#include "core/base/slots.h"
#include "core/bitmap/dirty_bits_sector.h"
#include "core/bitmap/frozen_bits.h"
#include "core/bitmap/sparse_bits.h"

namespace qcow2 {

// A page of a bitmap, as it is to stand in the file. Who writes many lets go of the content of
// each when it is written: what is asked about it later is in the other members.
struct PageImage {
    static constexpr std::uint64_t sector_bytes = 512;

    std::uint64_t page = 0;
    Buffer content;              // DirtyBits::page_bytes
    std::uint8_t sectors = 0;    // bit n: sector n of it differs from the file, or may
    std::vector<Range> regions;  // bits of the page that are armed by it

    bool touches(Range bytes) const;
};

class DirtyBits {
public:
    static constexpr std::uint64_t page_bytes = 4096;
    static constexpr std::uint64_t page_bits = page_bytes * 8;

    // Fills pages, from this one on, with what the file has: one, or as many as load_all()
    // takes at once, which begin at a multiple of it. Any thread.
    static constexpr std::uint64_t pages_at_once = 16;
    using Load = std::function<Result<void>(std::uint64_t page, MutableBytes bytes)>;

    // The first page, from this one on, that may have bits in the file. Any thread.
    using NextStored = std::function<std::uint64_t(std::uint64_t page)>;

    // region_bits: how much is armed for one bit, at least; a power of two, at
    // most page_bits.
    DirtyBits(
        std::uint64_t bits, std::uint64_t region_bits, Load load,
        NextStored next_stored = [](std::uint64_t page) { return page; });

    // Makes them precise; true if all of them are durable.
    Result<bool> mark(Range bits);

    // Reads all pages that may have bits and are not in memory yet: no other has any then.
    // Any thread.
    Result<void> load_all();
    // How many are precise; what is not in memory is looked at in the file, and does not
    // stay. Any thread.
    Result<std::uint64_t> count() const;

    // --- Nobody else is inside, and load_all() has been here.

    FrozenBits copy_precise() const;
    // These bits, and no others, are what the bitmap is to say from now on. What is
    // durable stays so: it becomes extra, as far as it is not among them.
    // std::bad_alloc: it says what it said.
    void replace_precise(const SparseBits &bits);

    // What is known in memory of the same bits of the same file becomes known here.
    void take_over(DirtyBits &other);

    // --- For the holder of the turn.

    std::uint64_t pages() const { return pages_; }
    // The first page, from this one on, that is in memory; pages() if there is none.
    std::uint64_t next_loaded(std::uint64_t page) const;
    // The pages that hold these bits.
    static Range pages_of(Range bits) { return bits.touched(page_bits); }

    // What has to be written so that all precise bits of this page are durable,
    // with the regions around them; nullopt if they are.
    std::optional<PageImage> arm(std::uint64_t page);
    // And so that all of it is; nullopt if it is, or cannot be read, which a page that has precise
    // bits was.
    std::optional<PageImage> arm_whole(std::uint64_t page);
    // The regions of this page that were not touched since the last time lose
    // their extra bits; `all`: all regions. nullopt if there are none.
    std::optional<PageImage> cool(std::uint64_t page, bool all);
    // What has to be written so that this page is exact in the file; nullopt if
    // it is. Nobody else is inside.
    std::optional<PageImage> settle(std::uint64_t page);

    // Those bits of this page go that are not durable: the changes that set them
    // were refused. (As far as the file does not have them.) Nobody else is inside, and no bit
    // counts by being in memory.
    Result<void> forget_refused(std::uint64_t page);

    // The file now holds exactly this page (not yet durable).
    void written(const PageImage &image)
    {
        loaded(image.page)->unsure &= std::uint8_t(~image.sectors);
    }
    // The file now holds this page durably: the regions that it arms are durable. (Of nothing
    // else that is believed: bits may have become precise since the image was made.)
    void durable(const PageImage &image);
    // All that was written is durable, and exact.
    void settled();

    // Upper bound: how many bits are set in the file without being precise.
    std::uint64_t extra_bits() const { return extra_bits_.load(std::memory_order_relaxed); }

private:
    static constexpr std::uint64_t word_bits = 64;
    static constexpr std::uint64_t page_words = page_bits / word_bits;
    static constexpr std::uint64_t sector_bits = PageImage::sector_bytes * 8;
    static constexpr std::uint64_t sector_words = DirtySector::word_count;
    static_assert(sector_words * word_bits == sector_bits);
    static constexpr std::uint64_t page_sectors = page_bits / sector_bits;
    // Each arming of a page lately widens the next one, to four times as much: so often at most,
    // for then it is a page.
    static constexpr unsigned widen_bits = 2;
    static constexpr unsigned widest = 8;

    struct Page {
        Slots<DirtySector, page_sectors> sectors;
        // The holder of the turn alone:
        unsigned armings = 0;     // lately: the more, the wider
        std::uint64_t extra = 0;  // bits
        std::uint8_t unsure = 0;  // sectors that were sent, and may be there or not

        // nullptr if it is not there.
        DirtySector *sector(std::uint64_t number) const { return sectors.find(number); }
        // Made if it is not there.
        DirtySector &made(std::uint64_t number) { return sectors.made(number); }
    };
    static constexpr std::uint64_t group_pages = 512;
    struct Group {
        Slots<Page, group_pages> pages;
        // Bit n % 64 of number n / 64: page n has precise bits, or had some. A copy of all
        // bits looks at nothing else: what has no bits costs it a bit for each page. Both
        // masks are set after the word, so that all are there where nobody else is inside.
        std::array<std::atomic<std::uint64_t>, group_pages / 64> precise{};
    };

    // Calls for each sector that is there: its number in the page, the sector.
    template <class Visit>
    static void for_each_sector(const Page &page, Visit visit)
    {
        for (std::uint64_t number = 0; number < page_sectors; ++number)
            if (DirtySector *sector = page.sector(number))
                visit(number, *sector);
    }
    template <class Visit>
    static void for_each_sector_of(const Page &page, Range words, Visit visit);
    template <class Words, class Part>
    static void split(Range bits, Words words, Part part);
    template <class Visit>
    void for_each_precise_word(Visit visit) const;
    void note_precise(std::uint64_t page, DirtySector &sector, std::uint64_t word);

    Result<Page *> load(std::uint64_t number);
    Page &put_page(std::uint64_t number, Bytes content);
    template <class Visit>
    Result<void> for_each_not_loaded(Visit visit) const;
    Page *loaded(std::uint64_t number) const
    {
        const Group *group = groups_.find(number / group_pages);
        return group ? group->pages.find(number % group_pages) : nullptr;
    }
    // A region is less than a word: it takes words to say which of its bits are durable.
    bool is_coarse() const { return region_bits_ < word_bits; }
    bool end_is_extra(std::uint64_t page) const;
    std::uint64_t width(std::uint64_t number, Page &page) const;
    std::optional<PageImage> arm_regions(std::uint64_t number, Page &page,
                                         std::vector<Range> regions);
    std::vector<Range> regions_around_missing(std::uint64_t number, const Page &page,
                                              std::uint64_t width) const;
    static void fill(std::uint64_t number, const Page &page, PageImage &image);
    static void fill_regions(PageImage &image);
    void count_extra(Page &page);

    const std::uint64_t bits_;
    const std::uint64_t region_bits_;
    const Load load_;
    const NextStored next_stored_;
    const std::uint64_t pages_;
    SlotVector<Group> groups_;
    std::atomic<std::uint64_t> extra_bits_{0};
};

}  // namespace qcow2
