// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// EnabledBitmap: a bitmap that is kept true: its bits in memory, its place in
// the file.

#pragma once

#include <atomic>
#include <string>

#include "core/bitmap/dirty_bits.h"
#include "core/bitmap/stored_bitmap.h"

namespace qcow2 {

struct EnabledBitmap {
    // index: in the directory. region_bytes: how much of the disk is armed for
    // one change, at least.
    EnabledBitmap(Image &image, std::size_t index, const BitmapDirectoryEntry &entry,
                  std::uint64_t region_bytes);

    const std::size_t index;
    const std::string name;
    const std::uint64_t granularity;  // bytes
    StoredBitmap stored;
    DirtyBits bits;
    // Given up: marked in_use, for there was no room to keep it true (B7).
    std::atomic<bool> lost{false};
};

}  // namespace qcow2
