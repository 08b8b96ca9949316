// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ResizedBitmaps: all bitmaps of an image follow its disk to another size, the
// disabled ones and the inconsistent ones too, which stay inconsistent. Part of
// one structural change with image/resize.h; see there how it is used.
//
// Bits of granules that both sizes have stay; new ones are 0, whatever stood
// behind the last bit before. What is right as it is stays where it is.

#pragma once

#include <vector>

#include "core/bitmap/tracker.h"
#include "core/format/bitmap_table.h"
#include "core/image/aside.h"

namespace qcow2 {

class ResizedBitmaps {
public:
    // size: of the disk, bytes.
    ResizedBitmaps(Image &image, const Tracker &tracker, std::uint64_t size);

    // Whether all of them can follow; else the error names the one that cannot.
    Result<void> check() const;

    Result<void> prepare(Aside &aside);
    void apply(HeaderArea &area) const;

private:
    using Table = std::vector<BitmapTableEntry>;

    Result<void> resize(BitmapDirectoryEntry &e, Aside &aside);
    Result<Table> load_table(const BitmapDirectoryEntry &e);
    Result<void> cut_cluster(BitmapTableEntry &entry, std::uint64_t bits, Aside &aside);

    Image &image_;
    const Tracker &tracker_;
    const Geometry geometry_;
    const std::uint64_t size_;

    std::vector<BitmapDirectoryEntry> entries_;
    std::optional<BitmapsExtension> extension_;  // if the directory was written anew
};

}  // namespace qcow2
