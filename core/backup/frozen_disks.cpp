// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

// How a disk is frozen.
//
// Nothing is copied when a disk is frozen. It is put at the head of a list, and from then on a
// change finds out first which of its blocks a frozen disk still needs from the live one, and
// copies them to the scratch. What a frozen disk shows of a block is what it has kept, or what
// the live disk has, as nobody has changed it since.
//
// A reader looks twice. Between its look whether a block is kept and its read of the live disk
// a change may keep the block and go down, and then it has read the new bytes, or a part of
// them. So it looks again. A change keeps first and goes down then: if the reader has met any of
// its bytes, the block is kept at the second look, and is read from the scratch. (That look is
// at the list as it is then: the change may have kept the block for a disk that was frozen after
// the first look.) In the same way a change that gives up a frozen disk says so before it goes
// down, and a reader looks last of all whether the disk is still true (F3). Readers lock nothing
// and claim nothing.
//
// A change claims. Two changes of one block must not both copy it: the second would copy what
// the first has written. So a change that finds a block needed claims it (a range lock), and
// looks once more: if another has kept it meanwhile, it may change. A change that waits for a
// claim too long, as its holder is stuck in a scratch that does not answer, breaks all frozen
// disks that need the block, and goes down without the claim. Whatever the holder has copied by
// then is marked or not: if it is marked before the others are given up, it was read before, and
// is right, and none is given up; if it is marked afterwards, none is left that would believe it.
//
// Newest first. Of several frozen disks the newest that needs a block keeps it, and no other:
// an older one that has not kept the block saw it unchanged up to the instant of the newer
// one, so what the newer one has kept is what the older one shows, too. So the question of a
// change goes from the newest to the oldest: where one has kept the block, all older ones have
// it; else the first that is true and needs it keeps it. The question of a reader goes the other
// way, from its own disk to the newest, and the first that has kept the block is right: it kept
// it at the first change after its instant, and all before that were kept by those nearer to
// the reader's.
//
// So the keeping of one that has ended, or is broken, must stay as long as there is an older
// one that is true (thaw.cpp): what it has kept is not only its own. Nothing more is kept in
// it. If it broke because its scratch was full or failed, the next older one that needs the
// block is asked, which has a scratch and a limit of its own.
//
// What cannot be read. If the live disk has no bytes of a block any more (a bad sector, a name
// that leads nowhere), the frozen one had none either: a reader has met the error before the
// change, and meets it afterwards. So the block is *unreadable*, an error for good, and the
// frozen disk stays true: to overwrite it is how a guest mends such a sector.

#include "core/backup/frozen_disks.h"

#include <algorithm>
#include <memory>
#include <new>

#include "core/base/log.h"

namespace qcow2 {

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char *too_slow = "it takes too long to keep what is overwritten";
constexpr std::uint64_t copy_blocks_max = FrozenDisks::copy_bytes_max / block_bytes;
// Of a long change so much is claimed at a time: blocks.
constexpr std::uint64_t claim_blocks_max = (256 << 20) / block_bytes;
// Extents may be as many as there are sectors.
constexpr std::size_t extents_at_once = 1 << 10;
constexpr std::size_t trim_parts_max = 1 << 14;

// Blocks that are alike for the one who keeps them.
struct Similar {
    bool zero = false;         // whole blocks, and they read as zeros
    std::uint64_t blocks = 0;  // at least 1
};

// What the live disk says of the first of these blocks, and how many from there on are alike.
// Where that fails they count as data, and a reader of them meets the error.
Similar similar(LiveDisk &inside, const Keeping &keeping, Range blocks)
{
    const Range bytes = keeping.bytes_of(blocks);
    std::uint64_t at = bytes.begin;  // what is before it are data
    for (std::size_t steps = 0; at < bytes.end && steps < extents_at_once; ++steps) {
        const Result<Extent> extent = inside.status(at, bytes.end - at);
        if (!extent)
            return {false, blocks.length()};
        const std::uint64_t end = at + extent->length;
        if (extent->zero) {
            const std::uint64_t first = div_ceil(at, block_bytes);
            const std::uint64_t last = end == bytes.end ? blocks.end : end / block_bytes;
            if (first < last)
                return first == blocks.begin ? Similar{true, last - first}
                                             : Similar{false, first - blocks.begin};
        }
        at = end;
    }
    return {false, div_ceil(at, block_bytes) - blocks.begin};
}

// What of the bytes these blocks are.
void add_part(std::vector<Range> &parts, Range blocks, Range bytes)
{
    const Range part = intersection({blocks.begin * block_bytes, blocks.end * block_bytes}, bytes);
    if (!parts.empty() && parts.back().end == part.begin)
        parts.back().end = part.end;
    else
        parts.push_back(part);
}

}  // namespace

std::shared_ptr<FrozenDisk> FrozenDisks::freeze(FreezeRequest request)
{
    auto standing = std::make_shared<Standing>(std::move(request.name),
                                               std::move(request.on_broken), true_ones_);
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

// From the first block that is needed on; what is before it may go down.
std::uint64_t FrozenDisks::keep(LiveDisk &inside, Range bytes, Parts parts, Waited &waited)
{
    if (!any() || bytes.empty())
        return bytes.end;
    Range blocks = bytes.touched(block_bytes);
    blocks.begin = first_needed(blocks);
    if (blocks.empty())
        return bytes.end;
    const std::uint64_t last = blocks.end;
    if (parts == Parts::first)
        blocks.end = std::min(blocks.end, align_up(blocks.begin + 1, claim_blocks_max));
    const Clock::time_point began = Clock::now();
    const Clock::time_point until = began + waiting_max_ - waited.so_far_;
    std::uint64_t done = blocks.end;
    {
        const RangeLock::Guard claim(claims_, blocks, until);
        if (claim.held())
            done = keep_claimed(inside, blocks, parts, until);
        else
            give_up(blocks, too_slow);
    }
    waited.so_far_ += Clock::now() - began;
    return done == last ? bytes.end : done * block_bytes;
}

// The first of the blocks that somebody needs, or their end.
std::uint64_t FrozenDisks::first_needed(Range blocks) const
{
    return keepings_.ask([&](const Keepings &keepings) {
        while (!blocks.empty()) {
            const Keepings::Need need = keepings.need(blocks);
            if (need.keeping)
                break;
            blocks.begin += need.blocks;
        }
        return blocks.begin;
    });
}

// Where it ends: of a long change where there is enough for one part, at a place where no cluster
// is cut in two.
std::uint64_t FrozenDisks::keep_claimed(LiveDisk &inside, Range blocks, Parts parts,
                                        Clock::time_point until)
{
    const std::shared_ptr<const Keepings> keepings = keepings_.take();
    std::uint64_t copied = 0;  // blocks
    while (!blocks.empty()) {
        const Keepings::Need need = keepings->need(blocks);
        if (!need.keeping) {
            blocks.begin += need.blocks;
            continue;
        }
        if (parts == Parts::first && copied >= copy_blocks_max &&
            is_aligned(blocks.begin, copy_blocks_max))
            return blocks.begin;
        if (Clock::now() >= until) {
            give_up(blocks, too_slow);
            break;
        }
        Range here = Range::of(blocks.begin, std::min(need.blocks, copy_blocks_max));
        if (parts == Parts::first)
            here.end = std::min(here.end, align_up(here.begin + 1, copy_blocks_max));
        try {
            blocks.begin += keep_some(inside, *need.keeping, here, copied);
        } catch (const std::bad_alloc &) {
            need.keeping->standing->give_up("out of memory");
        }
        if (Clock::now() >= until)
            need.keeping->standing->give_up(too_slow);
    }
    return blocks.end;
}

// Keeps the first of these blocks for the frozen disk that needs them; how many. None: that
// disk is broken.
std::uint64_t FrozenDisks::keep_some(LiveDisk &inside, Keeping &keeping, Range blocks,
                                     std::uint64_t &copied)
{
    keeping.kept.reserve(blocks);
    const Similar here = similar(inside, keeping, blocks);
    blocks.end = blocks.begin + here.blocks;
    if (here.zero) {
        keeping.kept.mark(blocks, Kept::zeros);
        return blocks.length();
    }
    const std::uint64_t done = copy(inside, keeping, blocks);
    copied += done;
    return done;
}

std::uint64_t FrozenDisks::copy(LiveDisk &inside, Keeping &keeping, Range blocks)
{
    const std::unique_ptr<std::uint8_t[]> buffer(
        new std::uint8_t[keeping.bytes_of(blocks).length()]);
    for (;; blocks.end = blocks.begin + blocks.length() / 2) {
        const Range bytes = keeping.bytes_of(blocks);
        const MutableBytes copied(buffer.get(), bytes.length());
        const Result<void> read = inside.read(GuestOffset(bytes.begin), copied);
        if (!read && blocks.length() > 1)
            continue;  // less and less, to the one block
        if (!read) {
            note_unreadable(keeping, blocks, read.error());
        } else if (const Result<void> written = keeping.scratch->write(bytes.begin, copied);
                   written) {
            keeping.kept.mark(blocks, Kept::data);
        } else {
            keeping.standing->give_up("what is overwritten could not be kept: ",
                                      written.error().what);
            return 0;
        }
        return blocks.length();
    }
}

// It is said once: there may be very many.
void FrozenDisks::note_unreadable(Keeping &keeping, Range blocks, const Error &cause)
{
    const std::string said = formatted(
        "backup {} cannot show what was at {:#x}: it is overwritten, and could not be read "
        "before: {}",
        quote(keeping.standing->name()), blocks.begin * block_bytes, cause.what);
    if (keeping.said_unreadable.exchange(true))
        log_debug(said);
    else
        log_warning(said);
    keeping.kept.mark(blocks, Kept::unreadable);
}

// Whoever needs one of them, for as long as anybody does.
void FrozenDisks::give_up(Range blocks, const char *reason) noexcept
{
    while (!blocks.empty()) {
        std::shared_ptr<Standing> whose;
        blocks.begin += keepings_.ask([&](const Keepings &keepings) {
            const Keepings::Need need = keepings.need(blocks);
            if (need.keeping)
                whose = need.keeping->standing;
            return need.keeping ? 0 : need.blocks;
        });
        if (whose)
            whose->give_up(reason);
    }
}

std::vector<Range> FrozenDisks::trimmable(LiveDisk &inside, Range bytes)
try {
    if (!any() || bytes.empty())
        return {bytes};
    std::vector<Range> parts;
    Range left = bytes.touched(block_bytes);
    while (!left.empty() && parts.size() < trim_parts_max) {
        Range blocks{left.begin, first_needed(left)};
        if (blocks.empty()) {
            blocks.end = std::min(left.end, align_up(blocks.begin + 1, claim_blocks_max));
            const RangeLock::Guard claim(claims_, blocks, Clock::now() + waiting_max_);
            if (!claim.held())
                break;
            trim_claimed(inside, blocks, bytes, parts);
        } else {
            add_part(parts, blocks, bytes);
        }
        left.begin = blocks.end;
    }
    return parts;
} catch (const std::bad_alloc &) {
    return {};
}

// What reads as zeros is kept as that: so it does not matter what it reads as when it is trimmed.
void FrozenDisks::trim_claimed(LiveDisk &inside, Range blocks, Range bytes,
                               std::vector<Range> &parts)
{
    const std::shared_ptr<const Keepings> keepings = keepings_.take();
    while (!blocks.empty() && parts.size() < trim_parts_max) {
        const Keepings::Need need = keepings->need(blocks);
        Range here = Range::of(blocks.begin, need.blocks);
        bool goes_down = !need.keeping;
        if (need.keeping) {
            need.keeping->kept.reserve(here);
            const Similar alike = similar(inside, *need.keeping, here);
            here.end = here.begin + alike.blocks;
            goes_down = alike.zero;
            if (alike.zero)
                need.keeping->kept.mark(here, Kept::zeros);
        }
        if (goes_down)
            add_part(parts, here, bytes);
        blocks.begin = here.end;
    }
}

}  // namespace qcow2
