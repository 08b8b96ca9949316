// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A structural change puts another bitmap directory in the place of the one that
// is there (H1):
//
//     BitmapDirectory directory = TRY(BitmapDirectory::load(image));
//     ...change directory.entries, with tables written aside...
//     const auto change = TRY(write_bitmap_directory(aside, directory.entries,
//                                                    directory.clusters()));
//     TRY(aside.commit([&](HeaderArea &area) { change(area); ...more... }));
//
// One thread, inside Disk::restructure().

#pragma once

#include <vector>

#include "core/format/bitmap_directory.h"
#include "core/structure/aside.h"

namespace qcow2 {

// Writes the entries aside, as a new directory, and lets the old one go (none: it
// leaks). Done to the header area, the change makes the header name the new one;
// without entries, extension and autoclear bit 0 go (H4).
Result<ImageHeader::Change> write_bitmap_directory(Aside &aside,
                                                   std::vector<BitmapDirectoryEntry> entries,
                                                   HostRun old);

}  // namespace qcow2
