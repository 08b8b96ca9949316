// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What can be done to the bitmaps of an image, each by one write of one sector
// (H1), with the refusals of QEMU. All are called inside Disk::restructure():
//
//     disk.restructure([](Image &image) { return remove_bitmap(image, "b0"); });
//
// On failure nothing has changed. not_found: there is no such bitmap; busy: it
// is inconsistent, or another reason lies in its state; invalid: a parameter;
// exists, no_space, io.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/bitmap/recoverable.h"
#include "core/structure/bitmap_changes.h"

namespace qcow2 {

// All by one commit. busy: the bitmaps that are there are out of date.
Result<void> add_bitmaps(Image &image, const std::vector<NewBitmap> &bitmaps);

// Inconsistent ones, too. With the last one extension and autoclear bit go.
Result<void> remove_bitmap(Image &image, const std::string &name);

// For maintenance, where DiskOptions::mends_bitmaps: takes a bitmap out of the
// image that nobody can use, a foreign one too. Of several of one name one that
// has something wrong goes first. What may be others' of its clusters leaks.
Result<void> drop_bitmap(Image &image, const std::string &name);
// Extension and autoclear bit go, and all bitmaps with them, also where the
// directory cannot be read or is out of date. not_found: there is nothing.
Result<void> drop_all_bitmaps(Image &image);

// A disabled bitmap keeps its bits and does not see changes.
Result<void> enable_bitmap(Image &image, const std::string &name);
Result<void> disable_bitmap(Image &image, const std::string &name);

// No bit is set afterwards.
Result<void> clear_bitmap(Image &image, const std::string &name);

// Sets in the one what is set in the other. Each granule of the target that
// touches a dirty granule of the source gets dirty.
Result<void> merge_bitmap(Image &image, const std::string &target, const std::string &source);

// Makes bitmaps that are inconsistent or out of date valid again, with all bits
// set: a superset of whatever changed. Those that cannot be (an unknown type,
// another bitmap of the same name) stay as they are if they are inconsistent, and
// are gone if they are out of date: they leak, with the tables of those that
// became valid again (H4). Which they are: recoverable.h.
Result<void> recover_all_dirty(Image &image);

// Where there is no room for another table: in the clusters they have, one after
// the other. What cannot be recovered so stays as it is, with a warning; what is
// out of date has no clusters.
Result<void> recover_in_place(Image &image);

// Those alone that were given up for lack of room, by one commit or, if the room
// does not suffice, in place. no_space: not one could be.
Result<void> recover_given_up(Image &image);

// Both by one commit, the first if asked for.
Result<void> recover_and_add(Image &image, bool recover, const std::vector<NewBitmap> &bitmaps);

}  // namespace qcow2
