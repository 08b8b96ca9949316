// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/kept_blocks.h"

#include <bit>

#include "core/base/invariant.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t low_bits = 0x5555555555555555;  // one for each block

// In each place of a word, of which there are 32.
std::uint64_t everywhere(Kept kept) { return low_bits * static_cast<std::uint64_t>(kept); }

// The places [begin, end) of a word; not empty.
std::uint64_t places(std::uint64_t begin, std::uint64_t end)
{
    return ~std::uint64_t(0) >> (64 - 2 * (end - begin)) << 2 * begin;
}

}  // namespace

KeptBlocks::KeptBlocks(std::uint64_t blocks)
    : blocks_(blocks), branches_(div_ceil(blocks, branch_blocks))
{
}

KeptBlocks::Leaf *KeptBlocks::leaf_of(const Branch &branch, std::uint64_t block)
{
    return branch.find(block % branch_blocks / leaf_blocks);
}

// The first of these blocks that is something else, or their end.
std::uint64_t KeptBlocks::alike_until(Kept kept, Range blocks) const
{
    std::uint64_t at = blocks.begin;
    while (at < blocks.end) {
        const Branch *branch = branch_of(at);
        const Leaf *leaf = branch ? leaf_of(*branch, at) : nullptr;
        if (!leaf) {
            if (kept != Kept::no)
                return at;
            at = align_down(at, branch ? leaf_blocks : branch_blocks) +
                 (branch ? leaf_blocks : branch_blocks);
            continue;
        }
        const std::uint64_t first = align_down(at, word_blocks);
        const std::uint64_t end = std::min(blocks.end, first + word_blocks);
        const std::uint64_t word = (*leaf)[at % leaf_blocks / word_blocks].load();
        const std::uint64_t other = (word ^ everywhere(kept)) & places(at - first, end - first);
        if (other != 0)
            return first + static_cast<std::uint64_t>(std::countr_zero(other)) / 2;
        at = end;
    }
    return blocks.end;
}

KeptBlocks::Run KeptBlocks::run(Range blocks) const
{
    INVARIANT(!blocks.empty() && blocks.end <= blocks_);
    Kept kept = Kept::no;
    if (const Branch *branch = branch_of(blocks.begin))
        if (const Leaf *leaf = leaf_of(*branch, blocks.begin)) {
            const std::uint64_t word = (*leaf)[blocks.begin % leaf_blocks / word_blocks].load();
            kept = static_cast<Kept>(word >> 2 * (blocks.begin % word_blocks) & 3);
        }
    // It may have been kept since: then the run is one of those that were not, of one block.
    const std::uint64_t end = alike_until(kept, {blocks.begin + 1, blocks.end});
    return {kept, end - blocks.begin};
}

void KeptBlocks::reserve(Range blocks)
{
    INVARIANT(blocks.end <= blocks_);
    const Range leaves = blocks.touched(leaf_blocks);
    for (std::uint64_t leaf = leaves.begin; leaf < leaves.end; ++leaf)
        branches_.made(leaf / branch_leaves).made(leaf % branch_leaves);
}

void KeptBlocks::mark(Range blocks, Kept kept)
{
    INVARIANT(blocks.end <= blocks_);
    while (!blocks.empty()) {
        const std::uint64_t first = align_down(blocks.begin, word_blocks);
        const std::uint64_t end = std::min(blocks.end, first + word_blocks);
        std::atomic<std::uint64_t> &word =
            (*leaf_of(*branch_of(first), first))[first % leaf_blocks / word_blocks];
        const std::uint64_t places_here = places(blocks.begin - first, end - first);
        INVARIANT((word.fetch_or(everywhere(kept) & places_here) & places_here) == 0);
        blocks.begin = end;
    }
}

}  // namespace qcow2
