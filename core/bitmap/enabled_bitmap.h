// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// EnabledBitmap: a bitmap that is kept true: its bits in memory, its place in
// the file; and, while a backup may come to rotate it, what has changed since the
// instant of that backup.

#pragma once

#include <atomic>
#include <memory>
#include <new>
#include <string>

#include "core/bitmap/dirty_bits.h"
#include "core/bitmap/stored_bitmap.h"

namespace qcow2 {

// The granules that were changed since an instant. Never in the file (F4): there
// the bitmap covers old changes and new ones until the backup has succeeded.
struct ChangesSince {
    explicit ChangesSince(std::uint64_t granules) : bits(granules) {}

    // Any thread. A change never fails for a backup's sake (F2): where memory ends
    // the record is not complete, and cannot take the place of the bitmap.
    void record(Range granules)
    {
        try {
            bits.set(granules);
        } catch (const std::bad_alloc &) {
            complete = false;
        }
    }

    SparseBits bits;
    std::atomic<bool> complete{true};
};

struct EnabledBitmap {
    // index: in the directory. region_bytes: how much of the disk is armed for
    // one change, at least.
    EnabledBitmap(Image &image, std::size_t index, const BitmapDirectoryEntry &entry,
                  std::uint64_t region_bytes);

    std::size_t index;  // changes when others come or go
    const std::string name;
    const std::uint64_t granularity;  // bytes
    StoredBitmap stored;
    DirtyBits bits;
    // Under the turn (Arming):
    std::uint64_t next_to_cool = 0;  // page
    unsigned armings_lately = 0;     // of pages, half of them forgotten with each cooling
    // Given up: marked in_use, for there was no room to keep it true (B7).
    std::atomic<bool> lost{false};
    // Set and taken away while nobody else is inside; nullptr: no backup.
    std::shared_ptr<ChangesSince> since;
};

}  // namespace qcow2
