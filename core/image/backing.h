// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Backing: what an image shows where it has nothing of its own. Read-only.
// How it is opened, and what it can be: open_image.cpp.
//
// Any thread.

#pragma once

#include <cstdint>

#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/image/extent.h"

namespace qcow2 {

class Backing {
public:
    virtual ~Backing() = default;

    virtual std::uint64_t size() const = 0;  // bytes
    // The range lies inside size().
    virtual Result<void> read(std::uint64_t offset, MutableBytes bytes) = 0;
    // The first extent from the offset on, at most length_max (not 0) long.
    virtual Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) = 0;
};

}  // namespace qcow2
