// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Internal snapshots made, applied and deleted: structural changes, each of
// which takes effect by one write of the header sector (H1). All of it is
// prepared aside: the refcounts of all that a tree names, the L2 tables whose
// bit 63 changes, the L1 table, the snapshot table. An image then says one
// thing or the other, and `check` finds nothing wrong with either.
//
// Where there is no room for that, chosen by itself, refcounts and bits change
// in place (W6): bits that must go; counts that rise; the header; counts that
// fall; bits that come; each durable before the next. Ended in between, counts
// may be too high (leaks), and bits 63 of the disk may be clear where the
// refcount is 1: `qemu-img check` calls that an error, and nothing is wrong
// with the data.
//
// Refused before anything is written: counts that would not fit their width;
// counts that are too low for what is named; an external data file, whose
// clusters nobody counts (as QEMU).
//
// The image is settled, nobody else is inside, and it is opened anew after
// that. With `become_alone` (core/structure/aside.h) requests may pass until that is called, which
// change neither tables nor counts. Bitmaps tell of the active state, and stay what they are when
// snapshots come and go; when one is applied their part comes from the caller.

#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "core/image/snapshots.h"
#include "core/structure/aside.h"

namespace qcow2 {

// What else is to change in the same commit, when the disk has this size: written
// aside. Called twice if there is no room the first time.
using SwitchCompanion =
    std::function<Result<ImageHeader::Change>(Aside &, std::uint64_t disk_size)>;

// With the ID that QEMU would give it. Names may be there already. companion:
// nullptr if there is none.
Result<void> create_snapshot(Image &image, const NewSnapshot &snapshot,
                             const SwitchCompanion &companion = nullptr,
                             const BecomeAlone &become_alone = nullptr);

Result<void> delete_snapshot(Image &image, std::string_view id_or_name,
                             const BecomeAlone &become_alone = nullptr);

// The disk becomes what the snapshot is, which stays; its size, too. VM state
// stays with the snapshot.
Result<void> apply_snapshot(Image &image, std::string_view id_or_name,
                            const SwitchCompanion &companion,
                            const BecomeAlone &become_alone = nullptr);

}  // namespace qcow2
