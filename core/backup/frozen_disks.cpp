// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/frozen_disks.h"

#include <algorithm>
#include <new>

#include "core/base/log.h"

namespace qcow2 {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t trim_steps_max = 1 << 14;

// Blocks that are alike for the one who keeps them.
struct Similar {
    bool zero = false;         // whole blocks, and they read as zeros
    std::uint64_t blocks = 0;  // at least 1
};

// What the live disk says of the first of these blocks, and how many from there on are alike.
// An error of it is that of data, too, and who reads them meets it.
Similar similar(LiveDisk &inside, const Keeping &keeping, Range blocks)
{
    const Range bytes = keeping.bytes_of(blocks);
    std::uint64_t at = bytes.begin;  // what is before it are data
    while (at < bytes.end) {
        const Result<Extent> extent = inside.status(at, bytes.end - at);
        if (!extent)
            return {false, blocks.length()};
        const std::uint64_t end = at + extent->length;
        if (extent->zero) {
            const std::uint64_t first = div_ceil(at, block_bytes);
            const std::uint64_t last = end == bytes.end ? blocks.end : end / block_bytes;
            if (first < last)
                return first == blocks.begin ? Similar{true, last - first} : Similar{false, first - blocks.begin};
        }
        at = end;
    }
    return {false, blocks.length()};
}

}  // namespace

std::shared_ptr<FrozenDisk> FrozenDisks::freeze(FreezeRequest request)
{
    auto standing = std::make_shared<Standing>(std::move(request.name), std::move(request.on_broken), true_ones_);
    auto keeping = std::make_shared<Keeping>(standing, request.size, std::move(request.scratch),
                                             std::move(request.needed));
    auto disk = std::make_shared<FrozenDisk>(standing, request.size, live_, keepings_);
    keepings_.put([&](const Keepings &keepings) {
        Keepings::List list{keeping};
        list.insert(list.end(), keepings.newest_first().begin(), keepings.newest_first().end());
        return list;
    });
    ++true_ones_;
    return disk;
}

void FrozenDisks::before_change(LiveDisk &inside, Range bytes)
{
    Waited waited;
    keep(inside, bytes, Parts::all, waited);
}

std::uint64_t FrozenDisks::before_part(LiveDisk &inside, Range bytes, Waited &waited)
{
    return keep(inside, bytes, Parts::first, waited);
}

std::uint64_t FrozenDisks::keep(LiveDisk &inside, Range bytes, Parts parts, Waited &waited)
{
    if (!any() || bytes.empty())
        return bytes.end;
    const Range blocks = bytes.touched(block_bytes);
    if (keepings_.ask([&](const Keepings &keepings) { return keepings.nobody_needs(blocks); }))
        return bytes.end;
    const Clock::time_point began = Clock::now();
    const Clock::time_point until = began + waiting_max_ - waited.so_far_;
    Range left;
    {
        const RangeLock::Guard claim(claims_, blocks, until);
        if (claim.held())
            left = keep_claimed(inside, blocks, parts, until);
        else
            give_up(blocks, "it takes too long to keep what is overwritten");
    }
    waited.so_far_ += Clock::now() - began;
    return left.empty() ? bytes.end : left.begin * block_bytes;
}

// What is left of the blocks, where it was enough for one part.
Range FrozenDisks::keep_claimed(LiveDisk &inside, Range blocks, Parts parts, Clock::time_point until)
{
    const std::shared_ptr<const Keepings> keepings = keepings_.take();
    std::uint64_t copied = 0;  // blocks
    while (!blocks.empty()) {
        const Keepings::Need need = keepings->need(blocks);
        if (!need.keeping) {
            blocks.begin += need.blocks;
            continue;
        }
        if (parts == Parts::first && copied >= copy_bytes_max / block_bytes)
            return blocks;
        if (Clock::now() >= until) {
            give_up(blocks, "it takes too long to keep what is overwritten");
            return {};
        }
        const Range here = Range::of(blocks.begin, need.blocks);
        try {
            blocks.begin += keep_some(inside, *need.keeping, here, copied);
        } catch (const std::bad_alloc &) {
            need.keeping->standing->give_up("out of memory");
        }
        if (Clock::now() >= until)
            need.keeping->standing->give_up("it takes too long to keep what is overwritten");
    }
    return {};
}

// Keeps the first of these blocks for the one who needs them; how many. None: he is broken.
std::uint64_t FrozenDisks::keep_some(LiveDisk &inside, Keeping &keeping, Range blocks, std::uint64_t &copied)
{
    blocks.end = std::min(blocks.end, blocks.begin + copy_bytes_max / block_bytes);
    keeping.kept.reserve(blocks);
    const Similar here = similar(inside, keeping, blocks);
    blocks.end = blocks.begin + here.blocks;
    if (!here.zero) {
        const std::uint64_t done = copy(inside, keeping, blocks);
        copied += done;
        return done;
    }
    if (!keeping.standing->is_true())
        return 0;
    keeping.kept.mark(blocks, Kept::zeros);
    return blocks.length();
}

std::uint64_t FrozenDisks::copy(LiveDisk &inside, Keeping &keeping, Range blocks)
{
    const std::unique_ptr<std::uint8_t[]> buffer(new std::uint8_t[keeping.bytes_of(blocks).length()]);
    Range bytes;
    Kept kept = Kept::data;
    // Where not all can be read, less and less, to the one block.
    for (;; blocks.end = blocks.begin + blocks.length() / 2) {
        bytes = keeping.bytes_of(blocks);
        const Result<void> read = inside.read(GuestOffset(bytes.begin), MutableBytes(buffer.get(), bytes.length()));
        if (read)
            break;
        if (blocks.length() == 1) {
            log_warning("backup " + quote(keeping.standing->name()) + " has lost what was at " + hex(bytes.begin) +
                        ", which is overwritten and could not be read: " + read.error().what);
            kept = Kept::lost;
            break;
        }
    }
    if (kept == Kept::data) {
        const Result<void> written = keeping.scratch->write(bytes.begin, Bytes(buffer.get(), bytes.length()));
        if (!written) {
            keeping.standing->give_up("what is overwritten could not be kept: ", written.error().what);
            return 0;
        }
    }
    if (!keeping.standing->is_true())
        return 0;
    keeping.kept.mark(blocks, kept);
    return blocks.length();
}

// Whoever needs one of them, for as long as anybody does.
void FrozenDisks::give_up(Range blocks, const char *reason) noexcept
{
    keepings_.ask([&](const Keepings &keepings) {
        while (!blocks.empty()) {
            const Keepings::Need need = keepings.need(blocks);
            if (need.keeping)
                need.keeping->standing->give_up(reason);
            else
                blocks.begin += need.blocks;
        }
        return 0;
    });
}

std::vector<Range> FrozenDisks::trimmable(LiveDisk &inside, Range bytes)
try {
    if (bytes.empty())
        return {};
    const Range blocks = bytes.touched(block_bytes);
    if (!any() || keepings_.ask([&](const Keepings &keepings) { return keepings.nobody_needs(blocks); }))
        return {bytes};
    std::vector<Range> parts;
    const RangeLock::Guard claim(claims_, blocks, Clock::now() + waiting_max_);
    if (claim.held())
        trim_claimed(inside, blocks, bytes, parts);
    return parts;
} catch (const std::bad_alloc &) {
    return {};
}

// What reads as zeros is kept as that, so that it does not matter what it reads as when it is trimmed.
void FrozenDisks::trim_claimed(LiveDisk &inside, Range blocks, Range bytes, std::vector<Range> &parts)
{
    const std::shared_ptr<const Keepings> keepings = keepings_.take();
    for (std::size_t steps = 0; !blocks.empty() && steps < trim_steps_max; ++steps) {
        const Keepings::Need need = keepings->need(blocks);
        Range here = Range::of(blocks.begin, need.blocks);
        bool goes_down = true;
        if (need.keeping) {
            need.keeping->kept.reserve(here);
            const Similar alike = similar(inside, *need.keeping, here);
            here.end = here.begin + alike.blocks;
            goes_down = alike.zero;
            if (alike.zero)
                need.keeping->kept.mark(here, Kept::zeros);
        }
        blocks.begin = here.end;
        if (!goes_down)
            continue;
        const Range part = intersection({here.begin * block_bytes, here.end * block_bytes}, bytes);
        if (!parts.empty() && parts.back().end == part.begin)
            parts.back().end = part.end;
        else
            parts.push_back(part);
    }
}

}  // namespace qcow2
