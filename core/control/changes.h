// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the commands ask of the disk about its bitmaps, by the operations that it
// has: until Disk itself has them.

#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "core/base/result.h"
#include "core/bitmap/operations.h"
#include "core/disk.h"
#include "core/image/snapshots.h"

namespace qcow2 {

struct BitmapState {
    std::string name;
    std::uint64_t granularity = 0;  // bytes
    std::uint64_t dirty_bytes = 0;
    bool enabled = false;
    bool inconsistent = false;
    bool busy = false;
    std::string why_not_tracked;
    std::uint64_t extra_bytes = 0;
};
Result<std::vector<BitmapState>> bitmap_states(Disk &disk);

struct AddBitmap { NewBitmap bitmap; };
struct RemoveBitmap { std::string name; };
struct ClearBitmap { std::string name; };
struct EnableBitmap { std::string name; };
struct DisableBitmap { std::string name; };
struct MergeBitmaps { std::string target; std::vector<std::string> sources; };
struct MakeSnapshot { NewSnapshot snapshot; };
using Step = std::variant<AddBitmap, RemoveBitmap, ClearBitmap, EnableBitmap, DisableBitmap,
                          MergeBitmaps, MakeSnapshot>;
Result<void> change_together(Disk &disk, const std::vector<Step> &steps);

}  // namespace qcow2
