// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Reads the tables of an image, whatever their length, in pieces; and little of what
// is a hole of the store, for an image of a few KiB may name tables of many GiB.
//
// A store is asked for holes only where the piece before was all zeros: an answer may
// cost a file system a walk through all that is not a hole.
//
// One thread for one buffer.

#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "core/base/arith.h"
#include "core/base/byte_store.h"
#include "core/base/invariant.h"

namespace qcow2 {

// What goes from one table to the next.
struct TableBuffer {
    std::string where = {};  // what it is: said where it cannot be read; empty: nothing is said
    Buffer bytes = {};
    bool was_zero = false;  // the piece that was read last
};

// Calls visit(begin, piece) for each piece of so many bytes that is not all zeros.
// begin: bytes from the offset. Pieces are whole granules, which the length is, too.
template <class Visit>
Result<void> for_each_table_piece(ByteStore &store, TableBuffer &buffer, std::uint64_t offset,
                                  std::uint64_t length, std::uint64_t granule, Visit visit)
{
    constexpr std::uint64_t piece_bytes = 64 << 10;
    INVARIANT(length % granule == 0 && piece_bytes % granule == 0);
    // Behind the end there are zeros.
    length = std::min(length, align_up(store.size() - std::min(store.size(), offset), granule));
    std::uint64_t known_data = 0;  // up to there
    for (std::uint64_t at = 0; at < length;) {
        if (buffer.was_zero && at >= known_data) {
            const ByteStore::Stretch stretch = store.stretch(offset + at, length - at);
            const std::uint64_t end = at + std::min(stretch.length, length - at);
            const std::uint64_t whole = end == length ? end : align_down(end, granule);
            if (stretch.hole && whole > at) {
                at = whole;
                continue;
            }
            known_data = end;
        }
        const std::uint64_t n = std::min(length - at, piece_bytes);
        buffer.bytes.resize(std::max<std::size_t>(buffer.bytes.size(), n));
        const MutableBytes piece = sub(MutableBytes(buffer.bytes), 0, n);
        if (Result<void> read = store.read(offset + at, piece); !read)
            return buffer.where.empty() ? std::move(read) : std::move(read).in(buffer.where);
        buffer.was_zero = all_zero(piece);
        if (!buffer.was_zero)
            TRY(visit(at, Bytes(piece)));
        at += n;
    }
    return {};
}

// Calls visit(index, raw, second) for each entry of a table that is not zero.
// Entries have one word, or two (extended L2); without a second one it is 0.
template <class Visit>
Result<void> for_each_entry(ByteStore &store, TableBuffer &buffer, std::uint64_t offset,
                            std::uint64_t entries, std::size_t entry_bytes, Visit visit)
{
    const auto visit_piece = [&](std::uint64_t begin, Bytes piece) -> Result<void> {
        const std::uint64_t n = piece.size();
        for (std::uint64_t i = 0; i < n; i += entry_bytes) {
            // Tables are mostly empty: a line of the cache at a time.
            while (i % 64 == 0 && n - i >= 64 && all_zero(sub(piece, i, 64)))
                i += 64;
            if (i == n)
                break;
            const std::uint64_t raw = load_be64(&piece[i]);
            const std::uint64_t second = entry_bytes == 16 ? load_be64(&piece[i + 8]) : 0;
            if (raw != 0 || second != 0)
                TRY(visit((begin + i) / entry_bytes, raw, second));
        }
        return {};
    };
    return for_each_table_piece(store, buffer, offset, entries * entry_bytes, entry_bytes,
                                visit_piece);
}

}  // namespace qcow2
