// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ArmingLimits: how much of the disk is armed (core/bitmap/arming.h), in bytes of the disk.

#pragma once

#include <cstdint>

namespace qcow2 {

struct ArmingLimits {
    // For one change, at least; a power of two.
    std::uint64_t region_bytes = 16 << 20;
    // Without being changed, for each bitmap: what a crash reports too much.
    std::uint64_t extra_bytes_max = std::uint64_t(64) << 30;
    // With more armings lately than this the guest writes all over the disk: whole pages are
    // armed, and extra_bytes_max does not hold. (Lately: half of them are forgotten with each
    // cooling, of which the filter makes one in six seconds.)
    unsigned armings_all_over = 1000;
};

}  // namespace qcow2
