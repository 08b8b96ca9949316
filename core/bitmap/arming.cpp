// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A guest's write waits here when some of its granules are not yet set in the file. All that
// is done here serves one end: that it seldom has to, and then not for long.
//
// Seldom: not the granule is set but the region around it, as bits that the file says too much
// (extra). While the guest works in a region its writes find their bits durable and do not
// come here at all. DirtyBits chooses the width of regions, and keeps for each bit what it is
// to say (precise) and what the file is known to say (durable). That widens regions where
// armings are near each other. A guest that writes all over a large disk shows no such places,
// and would wait for a barrier with nearly each write: a TiB has 65536 regions, of which
// 4096 may be extra at a time. So armings are counted for the whole bitmap too: where there are
// too many (is_all_over()) whole pages are armed, and 64 of them together, by one barrier, and
// without a bound, which would take them away again at once. What a crash reports then may be
// all of the disk, as long as the guest goes on like this and some ten seconds longer.
//
// Not for long: all changes that wait share one barrier (group commit). A change that comes
// while a batch is under way joins the next batch. One of these changes leads it: it gathers
// the pages of all ranges, writes them, waits for the barrier, and calls the bits durable.
//
// The turn, turn_, is what B3 says: of one sector at most one write is in flight. What a write
// holds was read at one moment, without a lock that keeps changes out. Two of them in
// flight for one sector could land in either order, and the older one would take out bits that
// are called durable because of the newer one. Therefore every writer of bits holds the turn,
// arming, cooling and storing alike, and an arming holds it until its barrier has succeeded.
//
// A cluster of the bitmap that is not there yet gets its name when its bits are durable: the
// bits, a flush, then the entry of the table, then a barrier for that. Where there is no room
// for a cluster the entry alone says that all of it is dirty (B7).
//
// Taking bits out (arming_cooling.cpp) needs no barrier: if the write is lost the file says
// too much, as it did before. But a change may come at that very moment and rely on the
// bits. It sets precise and then looks at durable; cooling takes durable away and then
// looks at precise; so one of them sees the other. Cooling does a few pages a turn, and
// then lets a waiting batch go first: a mutex is not fair, and what waits there is a
// guest's write.
//
// How much may be extra is bounded for each bitmap. The change that led a batch keeps the
// bound, after the barrier, when those that shared it have gone on: it takes out as little as is
// enough, first where nothing came lately.

#include "core/bitmap/arming.h"

#include <algorithm>
#include <bit>

#include "core/base/log.h"
#include "core/base/rare.h"
#include "core/bitmap/arming_writes.h"
#include "core/bitmap/directory.h"

namespace qcow2 {

namespace {

// A bitmap of more pages (2 TiB of the disk at a granularity of 64K) is not armed by whole pages,
// wherever the guest writes: each takes 5 KiB of memory, and 10 us when the disk is stopped.
constexpr std::uint64_t whole_pages_max = 1024;

// So many whole pages are armed together, 128 GiB of the disk at a granularity of 64K.
constexpr std::uint64_t neighbours = 64;

// A power of two, at least one bit and at most a page.
std::uint64_t region_bits(std::uint64_t granularity, std::uint64_t region_bytes)
{
    const std::uint64_t bits = std::max<std::uint64_t>(1, region_bytes / granularity);
    return std::min(bits, DirtyBits::page_bits);
}

// The pages of this bitmap in which some of these bytes of the disk are.
std::vector<std::uint64_t> pages_of(const EnabledBitmap &bitmap, const std::vector<Range> &bytes)
{
    std::vector<std::uint64_t> pages;
    for (const Range &range : bytes) {
        const Range touched = DirtyBits::pages_of(range.touched(bitmap.granularity));
        for (std::uint64_t page = touched.begin; page < touched.end; ++page)
            pages.push_back(page);
    }
    std::ranges::sort(pages);
    pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
    return pages;
}

}  // namespace

EnabledBitmap::EnabledBitmap(Image &image, std::size_t index, const BitmapDirectoryEntry &entry,
                             std::uint64_t region_bytes)
    : index(index),
      name(entry.name),
      granularity(entry.granularity()),
      stored(image, entry),
      bits(
          stored.size().bits, region_bits(granularity, region_bytes),
          [this](std::uint64_t page, MutableBytes bytes) { return stored.load(page, bytes); },
          [this](std::uint64_t page) { return stored.next_stored(page); })
{
}

// A change joins the batch that waits, of which there is one. As long as another batch runs it
// sleeps; the first that then finds its batch not done leads it, for all that have joined.
// (Not Cycles: a batch that failed stays failed for all of it, whatever a later one says, for
// the changes of both rely on their own bits.)
Result<bool> Arming::arm(Range bytes, bool may_give_up)
{
    Locked lock(queue_);
    if (!next_)
        next_ = std::make_shared<Batch>();
    const std::shared_ptr<Batch> mine = next_;
    mine->ranges.push_back(bytes);
    mine->may_give_up |= may_give_up;
    while (!mine->done) {
        if (running_) {
            ended_.wait(queue_);
            continue;
        }
        running_ = true;
        next_.reset();
        Result<bool> result = false;
        try {
            const Unlocked meanwhile(queue_);
            result = run(*mine);
        } catch (...) {
            RARE("there is no memory to arm bits");
            finish(*mine, Error(Errc::io, "out of memory"));  // short: needs none
            end_turn();
            throw;
        }
        finish(*mine, std::move(result));
        end_turn();
    }
    return mine->result;
}

// Those who wait for it go on. The first result counts: they may have gone already.
void Arming::finish(Batch &batch, Result<bool> result)
{
    if (batch.done)
        return;
    batch.result = std::move(result);
    batch.done = true;
    ended_.notify_all();
}

void Arming::end_turn()
{
    running_ = false;
    ++batches_ended_;
    ended_.notify_all();
}

Result<bool> Arming::run(Batch &batch)
{
    Locked turn(turn_);
    waits_ += batch.ranges.size();
    const std::uint64_t barriers_before = barriers_;
    const auto begun = std::chrono::steady_clock::now();
    std::vector<Write> armed;
    if (!TRY(write_durably(batch, armed)))
        return false;
    for (const Write &write : armed)
        if (!write.bitmap->lost)
            write.bitmap->bits.durable(write.image);
    log_armed(armed, batch.ranges.size(), barriers_ - barriers_before,
              std::chrono::duration_cast<std::chrono::microseconds>(
                  std::chrono::steady_clock::now() - begun));
    {
        Locked lock(queue_);
        finish(batch, true);
    }
    // Nobody waits for this but who leads, and the next batch.
    const Result<void> bounded = keep_bounds(armed);
    if (!bounded)
        log_debug("armed regions are kept: {}", bounded.error().what);
    return true;
}

bool Arming::is_all_over(const EnabledBitmap &bitmap) const
{
    return bitmap.armings_lately > limits_.armings_all_over &&
           bitmap.bits.pages() <= whole_pages_max;
}

// Where the guest writes all over the disk, with their neighbours: one barrier does for all. Only
// those that need no room.
std::vector<std::uint64_t> Arming::pages_to_arm(const EnabledBitmap &bitmap,
                                                const Batch &batch) const
{
    const std::vector<std::uint64_t> touched = pages_of(bitmap, batch.ranges);
    if (!is_all_over(bitmap))
        return touched;
    std::vector<std::uint64_t> pages;
    for (const std::uint64_t page : touched) {
        const std::uint64_t group = align_down(page, neighbours);
        const std::uint64_t end = std::min(group + neighbours, bitmap.bits.pages());
        if (pages.empty() || pages.back() < group)
            for (std::uint64_t other = group; other < end; ++other)
                if (bitmap.stored.has_clusters(other) || std::ranges::binary_search(touched, other))
                    pages.push_back(other);
    }
    return pages;
}

// Says what it has armed, without content. False: there is no room for the bits of some bitmap.
// Then, and where something fails, there may be pages in the file that are not believed: they say
// too much, and `unsure` tells who stores the bitmap to write them anew.
Result<bool> Arming::write_durably(const Batch &batch, std::vector<Write> &armed)
{
    ArmingWrites writes(image_.store());
    for (const auto &bitmap : bitmaps_)
        for (const std::uint64_t page : pages_to_arm(*bitmap, batch)) {
            auto image = arm_page(*bitmap, page);
            if (!image)
                continue;
            if (!TRY(write_page(*bitmap, *image, writes, batch.may_give_up)))
                return false;
            image->content = Buffer();
            armed.push_back({bitmap.get(), std::move(*image)});
        }
    if (!tables_changed()) {
        barriers_ += TRY(writes.make_durable().in("bitmap data"));
        return true;
    }
    // The new clusters are durable before they have a name.
    TRY(writes.write().in("bitmap data"));
    TRY(image_.store().flush());
    ++barriers_;
    TRY(write_tables());
    return true;
}

std::optional<PageImage> Arming::arm_page(EnabledBitmap &bitmap, std::uint64_t page)
{
    if (bitmap.lost)
        return std::nullopt;
    std::optional<PageImage> image =
        is_all_over(bitmap) ? bitmap.bits.arm_whole(page) : bitmap.bits.arm(page);
    if (image)
        ++bitmap.armings_lately;
    return image;
}

// False: there is no room for it, and the bitmap was not to be given up for that.
Result<bool> Arming::write_page(EnabledBitmap &bitmap, const PageImage &image, ArmingWrites &writes,
                                bool may_give_up)
{
    auto placed = bitmap.stored.place(image);
    if (!placed && placed.error().code == Errc::no_space) {
        if (may_give_up) {
            TRY(give_up(bitmap));
            return true;
        }
        RARE("data are placed before a bitmap is given up (B7)");
        return false;
    }
    const std::vector<ByteStore::Part> parts = TRY(std::move(placed));
    for (const ByteStore::Part &part : parts)
        TRY(writes.add(part.offset, part.bytes).in("bitmap data"));
    return true;
}

// B7. Nobody may see that it is lost, nor may the table get its mark, before in_use is
// durable: where the bitmap is valid no tail is all ones.
Result<void> Arming::give_up(EnabledBitmap &bitmap)
{
    RARE("a bitmap is given up for lack of room (B7)");
    TRY(give_up_(bitmap));
    bitmap.lost = true;
    bitmap.stored.mark_given_up();
    return {};
}

Result<void> Arming::make_last_clusters()
{
    Locked turn(turn_);
    FewWarnings without_room;
    for (const auto &bitmap : bitmaps_) {
        Result<void> made = bitmap->stored.make_last();
        if (!made && made.error().code == Errc::no_space) {
            RARE("there is no room for the last bits of a bitmap (B7)");
            without_room.say("{}: there is no room for its last bits ({}); a change of the "
                             "disk that needs them costs the bitmap, until there is room",
                             words_for_bitmap(bitmap->name), made.error().what);
            made = {};
        }
        TRY(std::move(made));
    }
    if (!tables_changed())
        return {};
    TRY(image_.store().flush());
    return write_tables();
}

bool Arming::tables_changed() const
{
    return std::any_of(bitmaps_.begin(), bitmaps_.end(),
                       [](const auto &bitmap) { return bitmap->stored.table_changed(); });
}

// Durable when it returns.
Result<void> Arming::write_tables()
{
    ArmingWrites writes(image_.store());
    for (const auto &bitmap : bitmaps_)
        for (const SmallWrite &write : bitmap->stored.table_writes())
            TRY(writes.add(write.offset, write.bytes).in("bitmap table"));
    barriers_ += TRY(writes.make_durable().in("bitmap table"));
    for (const auto &bitmap : bitmaps_)
        bitmap->stored.table_written();
    return {};
}

// B7: no room for bits on which no change relies, because each of those that set
// them was refused, is no reason to give the bitmap up: they are forgotten.
Result<std::vector<ByteStore::Part>> Arming::place_exact(Write &write, bool in_use)
{
    EnabledBitmap &bitmap = *write.bitmap;
    auto placed = bitmap.stored.place(write.image);
    if (placed || placed.error().code != Errc::no_space)
        return placed;
    if (in_use) {
        TRY(give_up(bitmap));
        return std::vector<ByteStore::Part>();
    }
    TRY(bitmap.bits.forget_refused(write.image.page));
    auto image = bitmap.bits.settle(write.image.page);
    if (!image)
        return std::vector<ByteStore::Part>();
    write.image = std::move(*image);
    return bitmap.stored.place(write.image);
}

// True if something was sent. What the page holds is let go of then: a thousand bitmaps have
// many pages.
Result<bool> Arming::write_exact(Write &write, bool in_use)
{
    const std::vector<ByteStore::Part> parts = TRY(place_exact(write, in_use));
    for (const ByteStore::Part &part : parts)
        TRY(image_.store().write(part.offset, part.bytes).in("bitmap data"));
    write.image.content = Buffer();
    return !parts.empty();
}

Result<void> Arming::store(const std::vector<EnabledBitmap *> &which, bool in_use)
{
    Locked turn(turn_);
    log_figures();
    bool sent = false;
    std::vector<Write> images;
    for (EnabledBitmap *bitmap : which)
        for (std::uint64_t page = 0;
             (page = bitmap->bits.next_loaded(page)) < bitmap->bits.pages() && !bitmap->lost;
             ++page)
            if (auto image = bitmap->bits.settle(page)) {
                images.push_back({bitmap, std::move(*image)});
                sent |= TRY(write_exact(images.back(), in_use));
            }
    if (sent || tables_changed())
        TRY(image_.store().flush());
    if (tables_changed())
        TRY(write_tables());
    for (const Write &write : images)
        write.bitmap->bits.written(write.image);
    for (EnabledBitmap *bitmap : which) {
        bitmap->bits.settled();
        bitmap->armings_lately = 0;
    }
    return {};
}

// What a crash would report too many.
std::uint64_t Arming::extra_bytes() const
{
    std::uint64_t extra = 0;
    for (const auto &bitmap : bitmaps_)
        extra += bitmap->bits.extra_bits() * bitmap->granularity;
    return extra;
}

void Arming::log_armed(const std::vector<Write> &images, std::size_t waits, std::uint64_t barriers,
                       std::chrono::microseconds took) const
{
    for (const Write &write : images) {
        const std::uint64_t page_bytes = DirtyBits::page_bits * write.bitmap->granularity;
        log_detail("{}: armed in {} sectors of the page for {:#x} to {:#x}",
                   words_for_bitmap(write.bitmap->name), std::popcount(write.image.sectors),
                   write.image.page * page_bytes, (write.image.page + 1) * page_bytes);
    }
    log_detail("bitmaps: {} changes waited {} us for {} barriers; armed and not changed: {} bytes",
               waits, took.count(), barriers, extra_bytes());
}

void Arming::log_figures()
{
    if (waits_ == 0)
        return;
    log_debug("bitmaps: {} changes waited for {} barriers; a crash now would report up to {} bytes "
              "too many",
              waits_, barriers_, extra_bytes());
    waits_ = barriers_ = 0;
}

}  // namespace qcow2
