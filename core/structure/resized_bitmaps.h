// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ResizedBitmaps: all bitmaps of an image follow its disk to another size, the
// disabled ones and the inconsistent ones too, which stay inconsistent. Part of
// one structural change with structure/resize.h; see there how it is used.
//
// Bits of granules that both sizes have stay; new ones are 0, whatever stood
// behind the last bit before. What is right as it is stays where it is.
//
// If the disk becomes another one, that of a snapshot, of this size or another,
// any byte may have changed: then each enabled bitmap that can be used gets all
// its bits set (B6), and the others follow.

#pragma once

#include <vector>

#include "core/bitmap/tracker.h"
#include "core/format/bitmap_table.h"
#include "core/structure/aside.h"

namespace qcow2 {

class ResizedBitmaps {
public:
    // size: of the disk, bytes.
    ResizedBitmaps(Image &image, const Tracker &tracker, std::uint64_t size);

    // The disk becomes another one.
    void set_enabled() { set_enabled_ = true; }

    // Whether all of them can follow; else the error names the one that cannot.
    Result<void> check() const;

    Result<void> prepare(Aside &aside);
    void apply(HeaderArea &area) const;

private:
    using Table = std::vector<BitmapTableEntry>;

    bool has_another_size() const { return size_ != image_.disk_size(); }
    bool is_set(const BitmapDirectoryEntry &e) const
    {
        return set_enabled_ && e.enabled() && !e.in_use();
    }
    Result<void> resize(BitmapDirectoryEntry &e, Aside &aside);
    Result<void> set_all(BitmapDirectoryEntry &e, Aside &aside);
    Result<void> write_table(BitmapDirectoryEntry &e, const Table &table, Aside &aside);
    Result<Table> load_table(const BitmapDirectoryEntry &e);
    Result<void> cut_cluster(BitmapTableEntry &entry, std::uint64_t bits, Aside &aside);

    Image &image_;
    const Tracker &tracker_;
    const Geometry geometry_;
    const std::uint64_t size_;
    bool set_enabled_ = false;

    std::vector<BitmapDirectoryEntry> entries_;
    ImageHeader::Change change_;  // if the directory was written anew
};

}  // namespace qcow2
