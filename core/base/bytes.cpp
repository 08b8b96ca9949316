// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/bytes.h"

#include <cstring>

namespace qcow2 {

bool all_zero(Bytes bytes)
{
    // The first few by hand, the rest by comparing the span with itself
    // shifted: memcmp is as fast as the machine can read.
    const std::size_t head = bytes.size() < 16 ? bytes.size() : 16;
    for (std::size_t i = 0; i < head; ++i)
        if (bytes[i] != 0)
            return false;
    return bytes.size() <= 16 ||
           std::memcmp(bytes.data(), bytes.data() + 16, bytes.size() - 16) == 0;
}

}  // namespace qcow2
