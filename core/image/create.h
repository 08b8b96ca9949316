// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A new image, where nothing is. One thread; nobody else uses the store.

#pragma once

#include <cstdint>

#include "core/base/byte_store.h"

namespace qcow2 {

// Whether create_image() may be called: the store has no bytes, or only zeros,
// or what a call for this very size that was cut short has left of these. Reads
// all that is no hole. invalid: as check_disk_size().
Result<bool> is_empty(ByteStore &store, std::uint64_t disk_size);

// invalid: no image can have a disk of so many bytes.
Result<void> check_disk_size(std::uint64_t disk_size);

// Writes a version 3 image with a disk of this size (bytes; rounded up to 512),
// clusters of 64K or, if the disk is too large for these, more. Durable; until
// the last write, which is the header's, there is no image. The store is empty, by is_empty().
// no_space: it is too small. invalid: as check_disk_size().
Result<void> create_image(ByteStore &store, std::uint64_t disk_size);

}  // namespace qcow2
