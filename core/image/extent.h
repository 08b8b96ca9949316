// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Extent: a part of a disk, for block status.

#pragma once

#include <cstdint>

namespace qcow2 {

struct Extent {
    std::uint64_t length = 0;  // bytes
    bool hole = false;         // nothing is allocated for it
    bool zero = false;         // reads as zeros

    bool same_kind(const Extent &other) const { return hole == other.hole && zero == other.zero; }
};

}  // namespace qcow2
