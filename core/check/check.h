// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// check: a second opinion on what the writer did. It reads the file through
// base and format alone and shares no cache, allocator or mapping code with
// core/image.
//
// It follows every name in the file (walk.h), counts how often each cluster is
// named, and compares that with the refcounts; in the active tree it also compares bit 63
// with them. Bitmaps whose extension nothing vouches for (autoclear bit 0 clear, version 2)
// are not followed: their clusters count as leaks, as with qemu-img check.
//
// Nothing is written. One call uses one thread; the store must not change
// meanwhile. Time and memory grow with what is stored, not with the file's length:
// tables are read once, however many name them, and holes are skipped.

#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/byte_store.h"
#include "core/base/result.h"
#include "core/format/findings.h"

namespace qcow2 {

class ImageWalk;

struct CheckFinding {
    Finding finding;
    std::string place;        // "host cluster 0x50000: refcount 0, used 1 times"
    std::uint64_t count = 1;  // of the places that lie side by side, beginning there

    friend bool operator==(const CheckFinding &, const CheckFinding &) = default;
};

struct CheckReport {
    std::uint64_t corruptions = 0;  // things that are wrong
    std::uint64_t leaks = 0;        // clusters whose refcount is too high

    // In the order of the walk; of each kind the first findings_max.
    std::vector<CheckFinding> findings;
    static constexpr std::size_t findings_max = 20;
    // All of each kind.
    std::array<std::uint64_t, finding_kinds> counts{};
    std::uint64_t count_of(Finding finding) const
    {
        return counts[static_cast<std::size_t>(finding)];
    }

    // What is not wrong, and still to be known: marks in the header, bitmaps that
    // cannot be used. The first notes_max, and how many more there are.
    std::vector<std::string> notes;
    static constexpr std::size_t notes_max = 20;
    std::uint64_t more_notes = 0;

    bool sound() const { return corruptions == 0 && leaks == 0; }
    bool leaks_at_worst() const { return corruptions == 0; }

    // One line for each finding and note, and a last line with the totals.
    std::string text() const;
};

// An error: the header (or a table it names) is such that nothing can be
// checked, or the store failed to read.
Result<CheckReport> check(ByteStore &store);

// The second half of it: each cluster's refcount against the number of its
// names. What it finds goes to the findings of the walk, which has been run.
Result<void> compare_refcounts(ImageWalk &walk);

}  // namespace qcow2
