// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Which bitmaps could become valid again, with all bits set: those that are
// inconsistent, and those that are out of date, but for an unknown type and for
// all but the first of one name. Nothing is written here. Any thread.

#pragma once

#include <unordered_set>
#include <vector>

#include "core/bitmap/directory.h"

namespace qcow2 {

enum class Recoverable {
    all,
    given_up,  // those alone that were given up for lack of room (B7)
};

struct RecoverableBitmap {
    const BitmapDirectoryEntry *entry;    // of the directory, or of those that are out of date
    BitmapDirectoryEntry as_it_would_be;  // but for its table
};

// All at once, since an image may have thousands.
std::vector<RecoverableBitmap> list_recoverable(const BitmapDirectory &directory,
                                                const Image &image, Recoverable which);

using RecoverableBitmaps = std::unordered_set<const BitmapDirectoryEntry *>;
RecoverableBitmaps recoverable_bitmaps(const BitmapDirectory &directory, const Image &image);
bool has_recoverable(const BitmapDirectory &directory, const Image &image);
bool has_recoverable_given_up(const BitmapDirectory &directory, const Image &image);

}  // namespace qcow2
