// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A sector is the only atom on disk: what changes is written in whole sectors,
// and no others.

#pragma once

#include <algorithm>

#include "core/base/byte_store.h"
#include "core/format/limits.h"

namespace qcow2 {

// now and then: the same length; the store has `now` at offset. Neighbours go
// in one write. Returns whether anything was written.
inline Result<bool> write_differing_sectors(ByteStore &store, std::uint64_t offset, Bytes now,
                                            Bytes then)
{
    const auto differs = [&](std::size_t at) {
        const std::size_t n = std::min<std::size_t>(limits::sector, now.size() - at);
        return !std::ranges::equal(sub(now, at, n), sub(then, at, n));
    };
    bool written = false;
    for (std::size_t at = 0; at < now.size();) {
        std::size_t end = at;
        while (end < now.size() && differs(end))
            end = std::min<std::size_t>(end + limits::sector, now.size());
        if (end != at) {
            if (offset + end > store.size()) {  // the cluster that the file ends in
                TRY(store.grow(offset + end));
                TRY(store.flush());  // else a crash may find half of its sector
            }
            TRY(store.write(offset + at, sub(then, at, end - at)));
            written = true;
        }
        at = std::max(end, std::min<std::size_t>(at + limits::sector, now.size()));
    }
    return written;
}

}  // namespace qcow2
