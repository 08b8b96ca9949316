// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images that image_builder cannot make: QEMU makes them, when the test runs.
// Only where have_qemu_img().

#pragma once

#include <memory>

#include "core/image/named_file.h"
#include "tests/support/memory_store.h"
#include "tests/support/random.h"
#include "tests/support/reference_disk.h"

namespace qcow2::test {

enum class QemuMade { compressed, subclusters, backing, data_file };

struct QemuImage {
    StoreImage image;
    ReferenceDisk reference;            // with the bitmaps, which are clear
    std::unique_ptr<FileOpener> files;  // opens the backing file; else nullptr
    std::string text;                   // how it was made
    StoreImage data_file = {};          // may be shorter than the disk
};

QemuImage make_by_qemu(Random &random, QemuMade kind);

}  // namespace qcow2::test
