// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the keys ask for: these bitmaps exist and are enabled, inconsistent
// ones are recovered.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/bitmap/directory.h"

namespace qcow2 {

struct BitmapRequest {
    std::vector<std::string> names;
    std::optional<std::uint32_t> granularity_bits;  // for those that are made
    // The disk is to have at least this size before they are made.
    std::uint64_t disk_size_min = 0;
    bool recover_all_dirty = false;
};

// Whether it could be done: the error tells the cure. Writes nothing.
Result<void> check_request(const BitmapRequest &request, const Image &image,
                           const BitmapDirectory &directory);

// Lines for the person at the terminal, before anything is done: what is kept
// otherwise than asked for, and what is made and cannot know the past.
std::vector<std::string> announcements(const BitmapRequest &request, const Image &image,
                                       const BitmapDirectory &directory);

// Whether there is anything to do.
bool asks_for_change(const BitmapRequest &request, const Image &image,
                     const BitmapDirectory &directory);

// Does it, inside Disk::restructure().
Result<void> fulfil(const BitmapRequest &request, Image &image);

}  // namespace qcow2
