// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Entries of a refcount block at widths of 1 to 64 bits. `bytes` is a piece of
// a block that begins at entry 0 of that piece; `index` counts entries from
// there. Pure.

#pragma once

#include <cstdint>

#include "core/base/bytes.h"

namespace qcow2 {

std::uint64_t load_refcount(Bytes bytes, std::uint32_t refcount_order, std::uint64_t index);

// value must fit the width.
void store_refcount(MutableBytes bytes, std::uint32_t refcount_order, std::uint64_t index,
                    std::uint64_t value);

// The first index in [from, end) whose refcount is zero (`zero`) or not zero
// (`!zero`); end if there is none. Fast on long runs.
std::uint64_t find_refcount(Bytes bytes, std::uint32_t refcount_order, std::uint64_t from,
                            std::uint64_t end, bool zero);

}  // namespace qcow2
