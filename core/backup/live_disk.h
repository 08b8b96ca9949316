// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// LiveDisk: the disk as it is now, for those who keep what it was.
//
// Any thread. Offsets and lengths are bytes and lie inside the disk.

#pragma once

#include <cstdint>

#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/format/units.h"
#include "core/image/extent.h"

namespace qcow2 {

class LiveDisk {
public:
    virtual ~LiveDisk() = default;

    virtual Result<void> read(GuestOffset offset, MutableBytes bytes) = 0;
    // The first extent from the offset on, not empty, of at most this length, which is not 0.
    virtual Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) = 0;
};

}  // namespace qcow2
