// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

// How backups end.
//
// What an older frozen disk has not kept itself it may find in a newer one. So the keeping of
// one that is broken, or whose backup has ended, stays in the list as long as there is an older
// one that is true; nothing more is kept in it. What of it nobody relies on is given back: a
// long backup beside many short ones holds what has changed since it began, and no more. And
// where there are many such keepings, two that are neighbours become one, so that the number of
// files does not grow with the number of backups.
//
// None of this waits for anything that a guest waits for, but for one moment: a change that has
// claimed blocks (frozen_disks.cpp) may be about to keep something in what has just ended. When
// all claims of that moment have been released, it is quiet: nothing comes to it any more, and
// no change of the disk still has a list in which it stands. So the file of a scratch, which
// takes time to be given back, is closed here, and not by a change.

#include "core/backup/frozen_disks.h"

#include <algorithm>
#include <new>
#include <optional>

#include "core/base/log.h"

namespace qcow2 {

namespace {

// So many of those that are kept for older ones alone; if there are more, two become one.
constexpr std::size_t quiet_max = 8;

// Calls for the blocks of a keeping that were kept, in runs: what they are, which.
template <class Visit>
Result<void> for_each_kept(const Keeping &keeping, Visit visit)
{
    Range left{0, keeping.blocks()};
    while (!left.empty()) {
        const KeptBlocks::Run run = keeping.kept.run(left);
        if (run.kept != Kept::no)
            TRY(visit(run.kept, Range::of(left.begin, run.blocks)));
        left.begin += run.blocks;
    }
    return {};
}

// And for those of them on which an older one relies, or nobody does.
template <class Visit>
Result<void> for_each_relied_on(const Keepings &keepings, std::size_t number, bool relied_on,
                                Visit visit)
{
    return for_each_kept(*keepings.newest_first()[number],
                         [&](Kept kept, Range blocks) -> Result<void> {
                             while (!blocks.empty()) {
                                 const Keepings::Reliance here = keepings.reliance(number, blocks);
                                 if (here.relied_on == relied_on)
                                     TRY(visit(kept, Range::of(blocks.begin, here.blocks)));
                                 blocks.begin += here.blocks;
                             }
                             return {};
                         });
}

void give_back_data(Keeping &keeping, Range blocks)
{
    while (!blocks.empty()) {
        const KeptBlocks::Run run = keeping.given_back.run(blocks);
        const Range here = Range::of(blocks.begin, run.blocks);
        if (run.kept == Kept::no) {
            keeping.given_back.reserve(here);
            keeping.scratch->discard(keeping.bytes_of(here).begin, keeping.bytes_of(here).length());
            keeping.given_back.mark(here, Kept::data);
        }
        blocks.begin = here.end;
    }
}

void give_back(const Keepings &keepings)
{
    for (std::size_t number = 0; number < keepings.newest_first().size(); ++number) {
        Keeping &keeping = *keepings.newest_first()[number];
        if (keeping.quiet)
            (void)for_each_relied_on(keepings, number, false, [&](Kept kept, Range blocks) {
                if (kept == Kept::data)
                    give_back_data(keeping, blocks);
                return Result<void>();
            });
    }
}

// The number of one that is to go into the next older one; nullopt if there are not too many.
std::optional<std::size_t> to_fold(const Keepings &keepings)
{
    const Keepings::List &list = keepings.newest_first();
    if (std::count_if(list.begin(), list.end(), [](const auto &keeping) {
            return keeping->quiet;
        }) <= static_cast<std::ptrdiff_t>(quiet_max))
        return std::nullopt;
    for (std::size_t number = 0; number + 1 < list.size(); ++number)
        if (list[number]->quiet && list[number + 1]->quiet)
            return number;
    return std::nullopt;
}

// What older ones find in this keeping they find in the next older one then. (None that relies
// on it is larger than that one.)
Result<void> fold(const Keepings &keepings, std::size_t number)
{
    const Keeping &from = *keepings.newest_first()[number];
    Keeping &to = *keepings.newest_first()[number + 1];
    Buffer buffer;
    return for_each_relied_on(keepings, number, true, [&](Kept kept, Range blocks) -> Result<void> {
        while (!blocks.empty()) {
            const Range here{
                blocks.begin,
                std::min(blocks.end, blocks.begin + FrozenDisks::copy_bytes_max / block_bytes)};
            to.kept.reserve(here);
            if (kept == Kept::data) {
                const Range bytes = to.bytes_of(here);
                buffer.resize(bytes.length());
                TRY(from.scratch->read(bytes.begin, buffer));
                TRY(to.scratch->write(bytes.begin, buffer));
            }
            to.kept.mark(here, kept);
            blocks.begin = here.end;
        }
        return {};
    });
}

}  // namespace

void FrozenDisks::thaw(const FrozenDisk &disk)
{
    Locked lock(ending_);
    disk.standing_->end();
    tidy_alone();
}

bool FrozenDisks::break_all(const char *reason)
{
    Locked lock(ending_);
    bool any = false;
    for (const auto &keeping : keepings_.take()->newest_first()) {
        any |= keeping->standing->is_true();
        keeping->standing->give_up(reason);
    }
    tidy_alone();
    return any;
}

void FrozenDisks::tidy()
{
    Locked lock(ending_);
    if (untidy())
        tidy_alone();
}

bool FrozenDisks::untidy() const
{
    return keepings_.ask([](const Keepings &keepings) {
        for (const auto &keeping : keepings.newest_first())
            if (!keeping->standing->is_true() && !keeping->quiet)
                return true;
        return false;
    });
}

// What is in the old list alone ends here.
template <class Change>
void FrozenDisks::put(Change change)
{
    std::shared_ptr<const Keepings> old;
    {
        const RangeLock::Guard all(claims_, {0, ~std::uint64_t(0)});
        old = keepings_.put(change);
    }
}

// For lack of memory it stays untidy until the next time.
void FrozenDisks::tidy_alone() noexcept
try {
    put([](const Keepings &keepings) {
        Keepings::List list = keepings.newest_first();
        while (!list.empty() && !list.back()->standing->is_true())
            list.pop_back();
        for (const auto &keeping : list)
            keeping->quiet = !keeping->standing->is_true();
        return list;
    });
    std::shared_ptr<const Keepings> keepings = keepings_.take();
    give_back(*keepings);
    while (const auto number = to_fold(*keepings)) {
        const Result<void> folded = fold(*keepings, *number);
        if (!folded) {
            log_debug("what ended backups have kept for older ones stays in several files: {}",
                      folded.error().what);
            break;
        }
        put([gone = keepings->newest_first()[*number]](const Keepings &now) {
            Keepings::List list = now.newest_first();
            std::erase(list, gone);
            return list;
        });
        keepings = keepings_.take();
    }
} catch (const std::bad_alloc &) {
}

}  // namespace qcow2
