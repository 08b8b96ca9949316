// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/keepings.h"

namespace qcow2 {

namespace {

// Cuts the blocks to those that the answer is about.
template <class Run>
Run cut(Range &blocks, Run run)
{
    blocks.end = blocks.begin + run.blocks;
    return run;
}

}  // namespace

const Keeping *Keepings::find(const Standing &of) const
{
    for (const auto &keeping : list_)
        if (keeping->standing.get() == &of)
            return keeping.get();
    return nullptr;
}

// Newest first: what a newer one has kept is what the older ones see.
Keepings::Need Keepings::need(Range blocks) const
{
    for (const auto &keeping : list_) {
        if (blocks.begin >= keeping->blocks())
            continue;
        blocks.end = std::min(blocks.end, keeping->blocks());
        if (cut(blocks, keeping->kept.run(blocks)).kept != Kept::no)
            break;
        if (keeping->standing->is_true() && cut(blocks, keeping->needed_run(blocks)).needed)
            return {keeping.get(), blocks.length()};
    }
    return {nullptr, blocks.length()};
}

// From the disk itself to the newest: the first that has kept it did so at the first change
// after the instant of the disk. (Newer disks are as large, or larger.)
Keepings::Source Keepings::source(const Standing &of, Range blocks) const
{
    using From = Source::From;
    std::size_t number = 0;
    while (number < list_.size() && list_[number]->standing.get() != &of)
        ++number;
    if (number == list_.size())
        return {From::gone, blocks.length()};
    if (!cut(blocks, list_[number]->needed_run(blocks)).needed)
        return {From::not_needed, blocks.length()};
    for (++number; number-- > 0;) {
        const Keeping &keeping = *list_[number];
        switch (cut(blocks, keeping.kept.run(blocks)).kept) {
        case Kept::no: break;
        case Kept::data: return {From::scratch, blocks.length(), &keeping};
        case Kept::zeros: return {From::zeros, blocks.length()};
        case Kept::unreadable: return {From::unreadable, blocks.length()};
        }
    }
    return {From::live, blocks.length()};
}

// From the next older one on. One that has kept the block itself needs no other, and neither
// do those behind it.
Keepings::Reliance Keepings::reliance(std::size_t number, Range blocks) const
{
    for (++number; number < list_.size(); ++number) {
        const Keeping &older = *list_[number];
        if (blocks.begin >= older.blocks())
            break;
        blocks.end = std::min(blocks.end, older.blocks());
        if (cut(blocks, older.kept.run(blocks)).kept != Kept::no)
            break;
        if (older.standing->is_true() && cut(blocks, older.needed_run(blocks)).needed)
            return {true, blocks.length()};
    }
    return {false, blocks.length()};
}

CurrentKeepings::CurrentKeepings()
    : owner_(std::make_shared<Keepings>(Keepings::List())), current_(owner_.get())
{
}

}  // namespace qcow2
