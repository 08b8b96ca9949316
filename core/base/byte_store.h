// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ByteStore: the bytes of a qcow2 file, wherever they are. The one seam for
// all I/O of the engine; behind it stand nbdkit's next layer, a file, or the
// stores of the tests.
//
// Offsets and lengths are bytes and need not be aligned. Every method may be
// called from any thread at any time; two writes to the same bytes at once are
// the caller's mistake. A written byte is durable when a flush that began
// after the write returned has succeeded.

#pragma once

#include <cstdint>
#include <span>

#include "core/base/bytes.h"
#include "core/base/result.h"

namespace qcow2 {

class ByteStore {
public:
    virtual ~ByteStore() = default;

    // The length of the file. Grows by grow() only, falls by cut() only.
    virtual std::uint64_t size() const = 0;

    // From this offset on every byte was added by this process, reads as zero
    // and was never written to by others; size() or more if there is none.
    // (The "fresh" of rule W2: what of it was sent something, the caller
    // knows.)
    virtual std::uint64_t fresh_from() const = 0;

    // Bytes past size() read as zeros.
    virtual Result<void> read(std::uint64_t offset, MutableBytes bytes) = 0;

    // The range must lie inside size(): no_space otherwise.
    virtual Result<void> write(std::uint64_t offset, Bytes bytes) = 0;

    // The range reads as zeros afterwards. may_unmap: a hole is welcome.
    virtual Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) = 0;

    // How much of what begins at the offset is alike, at most length_max (not 0):
    // a hole, which reads as zeros and takes no room, or what may be data. A
    // store that does not know takes all for data.
    struct Stretch {
        std::uint64_t length;  // bytes
        bool hole;
    };
    virtual Stretch stretch(std::uint64_t, std::uint64_t length_max) { return {length_max, false}; }

    // Nobody needs these bytes any more; what they read as is not known.
    virtual Result<void> discard(std::uint64_t offset, std::uint64_t length) = 0;

    // All writes that returned before are durable. False from can_flush():
    // flush() succeeds and means nothing; "durable" then means "returned".
    virtual Result<void> flush() = 0;
    virtual bool can_flush() const = 0;

    // Writes a few bytes and makes them durable: with a flush, or, where
    // durable_alone() is true, these alone and cheaply. lost: they were written,
    // and what was to make them durable has failed, which is as final as a
    // failed flush. Any other error is that of the write.
    virtual Result<void> write_durable(std::uint64_t offset, Bytes bytes)
    {
        TRY(write(offset, bytes));
        Result<void> flushed = flush();
        if (!flushed)
            flushed.error().code = Errc::lost;
        return flushed;
    }
    // The same for some, which are durable when it returns, and may become so in any order.
    struct Part {
        std::uint64_t offset;
        Bytes bytes;
    };
    virtual Result<void> write_all_durable(std::span<const Part> parts)
    {
        for (const Part &part : parts)
            TRY(write_durable(part.offset, part.bytes));
        return {};
    }
    virtual bool durable_alone() const { return false; }

    // Makes the store at least this long; the new bytes read as zeros.
    // no_space if it cannot; lost, as above, if a flush failed that was needed
    // for it. Geometric steps are the store's business.
    virtual Result<void> grow(std::uint64_t size_min) = 0;
    virtual bool can_grow() const = 0;

    // Cuts off the end of what this process added. The last call of a clean
    // close; a store that cannot does nothing.
    virtual Result<void> cut(std::uint64_t size) = 0;

    // Cuts the file off, whoever made it so long; for a file that is a disk, not
    // an image. One that cannot be made shorter stays as it is.
    virtual Result<void> shorten(std::uint64_t) { return {}; }

    virtual bool read_only() const = 0;
};

}  // namespace qcow2
