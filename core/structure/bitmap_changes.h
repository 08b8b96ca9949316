// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// BitmapChanges: what is to be done to the bitmaps of an image, step by step in
// memory, and then all of it by one write of one sector (H1), with the refusals
// of QEMU. A step sees what the steps before it have done.
//
//     BitmapChanges changes = TRY(BitmapChanges::of(image));
//     TRY(changes.add(MergeBitmaps{"target", {"a", "b"}}));
//     TRY(changes.add(ClearBitmap{"a"}));
//     TRY(changes.commit());
//
// One thread, inside Disk::restructure(). add() writes nothing; after an error the
// changes are of no use, and nothing has changed. not_found: there is no such
// bitmap; busy: it is inconsistent, or another reason lies in its state; invalid: a
// parameter; exists, no_space, io.

#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/base/bit_vector.h"
#include "core/bitmap/directory.h"
#include "core/structure/aside.h"
#include "core/structure/bitmap_clusters.h"

namespace qcow2 {

struct NewBitmap {
    std::string name;
    std::optional<std::uint32_t> granularity_bits = {};  // nullopt: QEMU's default for the image
    bool enabled = true;
    bool all_dirty = false;  // all bits set, or none
};

struct AddBitmap {
    NewBitmap bitmap;
};
// Inconsistent ones, too. With the last one extension and autoclear bit go.
struct RemoveBitmap {
    std::string name;
};
// No bit is set afterwards.
struct ClearBitmap {
    std::string name;
};
// A disabled bitmap keeps its bits and does not see changes.
struct EnableBitmap {
    std::string name;
};
struct DisableBitmap {
    std::string name;
};
// Sets in the target what is set in the sources. Each granule of the target that
// touches a dirty granule of a source gets dirty.
struct MergeBitmaps {
    std::string target;
    std::vector<std::string> sources;
};

using BitmapStep =
    std::variant<AddBitmap, RemoveBitmap, ClearBitmap, EnableBitmap, DisableBitmap, MergeBitmaps>;

// The entry of a bitmap that is made, without its table. exists: another has its
// name; nullptr: none has.
Result<BitmapDirectoryEntry> new_bitmap_entry(const Image &image, const NewBitmap &bitmap,
                                              const BitmapDirectoryEntry *other);
// One word of one sector, durably. What failed may have landed: where the old
// word cannot be put back the image is not written to any more.
Result<void> change_bitmap_flags(Image &image, const BitmapDirectory &directory,
                                 const BitmapDirectoryEntry &entry, std::uint32_t new_flags);

class BitmapChanges {
public:
    static Result<BitmapChanges> of(Image &image);
    BitmapChanges(BitmapChanges &&) = default;

    Result<void> add(const BitmapStep &step);
    // As it would be now; nullptr: there is none of this name.
    const BitmapDirectoryEntry *find(std::string_view name) const;

    // Whether there is anything to be written.
    bool empty() const;
    // For each bitmap that there will be, in the order of the directory: the number of the
    // entry, in the old one, whose table it keeps; nullopt: it has a table of its own.
    std::vector<std::optional<std::size_t>> kept_tables() const;
    // Tables, data and directory, written aside; what they replace goes with the
    // commit. Done to the header area, the change makes the header name them.
    Result<ImageHeader::Change> prepare(Aside &aside);
    // All by one commit of their own; a change of the flags of one bitmap alone is
    // a write of one word.
    Result<void> commit();

private:
    // What the bits of a bitmap are to be.
    enum class Content { as_stored, uniform, bits };
    struct Planned {
        BitmapDirectoryEntry entry;
        std::optional<std::size_t> old;  // in the directory; nullopt: it is new
        Content content = Content::as_stored;
        bool value = false;  // of uniform
        BitVector bits = BitVector(0);
        bool removed = false;
    };

    BitmapChanges(Image &image, BitmapDirectory old);
    Planned *planned(std::string_view name) const;
    void name(Planned &bitmap) { names_.emplace(bitmap.entry.name, &bitmap); }
    Result<Planned *> existing(const std::string &name);
    Result<Planned *> consistent(const std::string &name);
    Result<void> plan(const AddBitmap &step);
    Result<void> plan(const RemoveBitmap &step);
    Result<void> plan(const ClearBitmap &step);
    Result<void> plan(const EnableBitmap &step) { return set_enabled(step.name, true); }
    Result<void> plan(const DisableBitmap &step) { return set_enabled(step.name, false); }
    Result<void> plan(const MergeBitmaps &step);
    Result<void> set_enabled(const std::string &name, bool enabled);
    Result<void> check_can_be_tracked(const Planned &bitmap);
    Result<BitVector> bits_of(const Planned &bitmap) const;
    Result<void> write(Aside &aside, const Planned &bitmap, BitmapDirectoryEntry &entry) const;
    Result<BitmapClusters *> clusters();
    Result<void> release_replaced(Aside &aside);
    static bool keeps_table(const Planned &bitmap)
    {
        return bitmap.old && !bitmap.removed && bitmap.content == Content::as_stored;
    }
    bool flags_differ(const Planned &bitmap) const;
    const Planned *only_flags_of_one() const;

    Image &image_;
    BitmapDirectory old_;
    std::deque<Planned> planned_;  // in the order of the directory, those that are removed, too
    // Those that will be there. Of one name the first comes first.
    std::multimap<std::string_view, Planned *> names_;
    std::optional<BitmapClusters> clusters_;  // of the old ones; all tables are read for it, once
};

// Several steps by one commit.
Result<void> change_bitmaps(Image &image, const std::vector<BitmapStep> &steps);

}  // namespace qcow2
