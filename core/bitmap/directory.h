// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// BitmapDirectory: the bitmaps extension and the directory that it names, as
// they stand in the file. (structure/new_bitmap_directory.h puts others in their place.)
//
// One thread; for a change, inside Disk::restructure().

#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/format/bitmap_directory.h"
#include "core/image/image.h"

namespace qcow2 {

// What helps where bitmaps are out of date.
constexpr std::string_view out_of_date_cure =
    "bitmap-recover=all-dirty makes them valid again with all bits set, "
    "bitmap-remove-all=yes removes them";

// "bitmap 'NAME'", for messages.
std::string words_for_bitmap(std::string_view name);
Error no_such_bitmap(std::string_view name);

class BitmapDirectory {
public:
    // An image without bitmaps has an empty directory. So has one whose
    // extension nothing vouches for (H4): stale() says it. A directory whose
    // records cannot be told apart, or an extension that is no such, is an
    // error; a record that is wrong in itself has its finding in the entry.
    static Result<BitmapDirectory> load(Image &image);

    // Why the extension that is there must not be used, in words; empty if it
    // may be, or there is none.
    const std::string &stale() const { return stale_; }

    // An extension without autoclear bit 0: somebody has changed the image who
    // does not know bitmaps. What its directory says the bitmaps were called is
    // all that is believed of it: the clusters that it names may be the guest's
    // by now (H4).
    struct OutOfDate {
        std::vector<BitmapDirectoryEntry> entries;
        std::optional<Error> unreadable;  // then there are no entries
    };
    const std::optional<OutOfDate> &out_of_date() const { return out_of_date_; }

    // Where it is; HostOffset(0) if there is none. Positions of entries count
    // from here.
    HostOffset offset() const { return offset_; }
    HostRun clusters() const { return clusters_; }

    std::vector<BitmapDirectoryEntry> entries;

    // An entry that is in_use because it was given up for lack of room: its table
    // has the mark (StoredBitmap::mark_given_up()). Whatever it says, all bits set
    // is right, and it needs nobody's word to become so.
    bool given_up(const BitmapDirectoryEntry &entry) const
    {
        return given_up_.contains(entry.position);
    }

    // nullptr: there is no bitmap of this name. The first of several.
    BitmapDirectoryEntry *find(std::string_view name);
    const BitmapDirectoryEntry *find(std::string_view name) const;
    // What is there and cannot be trusted is not taken for what was never there:
    // busy, with the cure, if the bitmaps are out of date.
    Result<void> check_up_to_date() const;
    // The same, or not_found.
    Result<BitmapDirectoryEntry *> existing(std::string_view name);
    // What QEMU, which ends names at a NUL, would take for this name; nullptr: none.
    const BitmapDirectoryEntry *find_for_qemu(std::string_view name) const;

    // The old one may be somebody else's: it is to leak.
    void leak_old() { clusters_ = {}; }

private:
    static Result<BitmapDirectory> load(Image &image, const Extension &extension);

    static Result<bool> has_mark(Image &image, const BitmapDirectoryEntry &entry);

    HostOffset offset_;
    HostRun clusters_;
    std::set<std::uint64_t> given_up_;  // positions
    std::string stale_;
    std::optional<OutOfDate> out_of_date_;
};

}  // namespace qcow2
