// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// KeptBlocks: what has become of each block of a frozen disk. Sparse: 512 bytes
// of memory for each 8 MiB of the disk in which something was kept.
//
// Two bits for each block, side by side in one word, so that what a block is
// changes in one step: from `no` to one of the others, once, for good.
//
// Readers take no lock: any thread may ask at any time. For any block one thread
// at a time marks; it has reserved memory before, so that to mark cannot fail.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/base/range.h"
#include "core/base/slots.h"

namespace qcow2 {

enum class Kept : unsigned {
    no = 0,
    data = 1,        // in the scratch
    zeros = 2,       // nothing of it is in the scratch
    unreadable = 3,  // it could not be read when it was overwritten
};

class KeptBlocks {
public:
    explicit KeptBlocks(std::uint64_t blocks);

    std::uint64_t size() const { return blocks_; }

    struct Run {
        Kept kept = Kept::no;
        std::uint64_t blocks = 0;  // at least 1
    };
    // What the first of these blocks is, and how many of them, from there on, are alike. Not empty.
    Run run(Range blocks) const;

    // Makes memory for marks; std::bad_alloc.
    void reserve(Range blocks);
    // Of blocks that are not kept.
    void mark(Range blocks, Kept kept);

private:
    static constexpr std::uint64_t word_blocks = 32;
    static constexpr std::uint64_t leaf_words = 64;
    static constexpr std::uint64_t leaf_blocks = leaf_words * word_blocks;
    static constexpr std::uint64_t branch_leaves = 512;
    static constexpr std::uint64_t branch_blocks = branch_leaves * leaf_blocks;

    using Leaf = std::array<std::atomic<std::uint64_t>, leaf_words>;
    using Branch = Slots<Leaf, branch_leaves>;

    const Branch *branch_of(std::uint64_t block) const
    {
        return branches_.find(block / branch_blocks);
    }
    static Leaf *leaf_of(const Branch &branch, std::uint64_t block);
    std::uint64_t alike_until(Kept kept, Range blocks) const;

    const std::uint64_t blocks_;
    SlotVector<Branch> branches_;
};

}  // namespace qcow2
