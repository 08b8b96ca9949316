// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Reads the tables of an image, whatever their length, in pieces. One thread
// for one buffer.

#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/byte_store.h"

namespace qcow2 {

// Tables are read in pieces of this many bytes.
constexpr std::uint64_t table_piece_bytes = 64 << 10;

// Calls visit(index, raw, second) for each entry of a table that is not zero.
// Entries have one word, or two (extended L2); without a second one it is 0.
template <class Visit>
Result<void> for_each_entry(ByteStore &store, Buffer &buffer, std::uint64_t offset,
                           std::uint64_t entries, std::size_t entry_bytes, Visit visit)
{
    const std::uint64_t bytes = entries * entry_bytes;
    for (std::uint64_t at = 0; at < bytes;) {
        const std::uint64_t n = std::min(bytes - at, table_piece_bytes);
        if (offset + at >= store.size())
            return {};  // zeros
        buffer.resize(std::max<std::size_t>(buffer.size(), n));
        const MutableBytes piece = sub(MutableBytes(buffer), 0, n);
        TRY(store.read(offset + at, piece));
        for (std::uint64_t i = 0; i < n; i += entry_bytes) {
            // Tables are mostly empty: a line of the cache at a time.
            while (i % 64 == 0 && n - i >= 64 && all_zero(sub(Bytes(piece), i, 64)))
                i += 64;
            if (i == n)
                break;
            const std::uint64_t raw = load_be64(&piece[i]);
            const std::uint64_t second = entry_bytes == 16 ? load_be64(&piece[i + 8]) : 0;
            if (raw != 0 || second != 0)
                TRY(visit((at + i) / entry_bytes, raw, second));
        }
        at += n;
    }
    return {};
}

}  // namespace qcow2
