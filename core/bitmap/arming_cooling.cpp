// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Arming: how bits that are set in the file without being precise are taken out again, every
// few seconds or where there are too many. Why that is safe stands in arming.cpp.

#include "core/bitmap/arming.h"

#include <algorithm>

namespace qcow2 {

namespace {

// In one turn cool() writes so many pages, and looks at so many, at most.
constexpr unsigned cooled_pages_max = 8;
constexpr std::uint64_t looked_at_pages_max = 256;

// Where an arming is to keep the bounds it first looks at so many pages for regions
// that are not in use. More pages than this it does not write: when a guest has ceased to write
// all over the disk, what is beyond the bound goes with the next armings.
constexpr std::uint64_t spared_pages_max = 32;
constexpr unsigned pages_written_max = 64;

}  // namespace

// True if the page had something to be taken out.
Result<bool> Arming::cool_page(EnabledBitmap &bitmap, std::uint64_t page, bool all)
{
    const auto image = bitmap.bits.cool(page, all);
    if (!image)
        return false;
    const std::vector<ByteStore::Part> parts = TRY(bitmap.stored.place(*image));
    for (const ByteStore::Part &part : parts)
        TRY(image_.store().write(part.offset, part.bytes).in("bitmap data"));
    bitmap.bits.written(*image);
    return true;
}

// A mutex is not fair: a thread that takes it again at once keeps others out. So a batch
// that is under way, or waits for the turn, goes first.
void Arming::let_others_arm()
{
    Locked lock(queue_);
    const std::uint64_t ended = batches_ended_;
    while (running_ && batches_ended_ == ended)
        ended_.wait(queue_);
}

Result<bool> Arming::cool(Cooling &cooling)
{
    while (cooling.bitmap < bitmaps_.size() && !cooling.wants(bitmaps_[cooling.bitmap]->name))
        ++cooling.bitmap;
    if (cooling.bitmap >= bitmaps_.size())
        return false;
    let_others_arm();
    Locked turn(turn_);
    if (cooling.bitmap == 0 && cooling.page == 0)
        log_figures();
    EnabledBitmap &bitmap = *bitmaps_[cooling.bitmap];
    if (cooling.page == 0)
        bitmap.armings_lately /= 2;
    const std::uint64_t pages = bitmap.lost ? 0 : bitmap.bits.pages();
    const std::uint64_t end = std::min(cooling.page + looked_at_pages_max, pages);
    for (unsigned cooled = 0; cooling.page < end && cooled < cooled_pages_max; ++cooling.page)
        cooled += TRY(cool_page(bitmap, cooling.page, cooling.all));
    if (cooling.page >= pages) {
        ++cooling.bitmap;
        cooling.page = 0;
    }
    return true;
}

// As little as is enough, from page to page in turns: a change waits for it. Regions
// that were not used since the last turn go first, for some pages; then all do. The
// pages that are just being armed are left alone: a change is about to rely on them.
// (It would be right all the same: its bits are precise.)
Result<void> Arming::keep_bound(EnabledBitmap &bitmap, const std::vector<Write> &just_armed)
{
    if (is_all_over(bitmap))
        return {};
    const std::uint64_t bits_max =
        std::max<std::uint64_t>(1, limits_.extra_bytes_max / bitmap.granularity);
    const std::uint64_t pages = bitmap.bits.pages();
    const std::uint64_t spared = std::min(pages, spared_pages_max);
    unsigned written = 0;
    for (std::uint64_t n = 0; n < spared + pages && bitmap.bits.extra_bits() > bits_max &&
                              !bitmap.lost && written < pages_written_max;
         ++n) {
        const std::uint64_t page = bitmap.next_to_cool++ % pages;
        const bool is_armed = std::ranges::any_of(just_armed, [&](const Write &write) {
            return write.bitmap == &bitmap && write.image.page == page;
        });
        if (!is_armed)
            written += TRY(cool_page(bitmap, page, n >= spared));
    }
    return {};
}

Result<void> Arming::keep_bounds(const std::vector<Write> &just_armed)
{
    for (const auto &bitmap : bitmaps_)
        TRY(keep_bound(*bitmap, just_armed));
    return {};
}

}  // namespace qcow2
