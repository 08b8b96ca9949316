// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Barrier: makes a few bytes durable that went through the layer below, without
// a flush of the whole file. A flush waits for everything
// that anybody has written; msync of some pages for what is dirty in these alone.
//
// It is right only if the layer's write has changed this very file, and has
// done so now. Nothing but looking tells: before the write our own descriptor
// reads something else than what is to be written, and afterwards it reads just
// that. An overlay, a cache that writes later, an offset, a replaced or
// shortened file do not pass; then a flush through the layer has to do it.
//
// Any thread; the writes of one range are one thread's.

#pragma once

#include <cstdint>

#include "core/base/bytes.h"
#include "core/base/range.h"
#include "core/base/result.h"

namespace qcow2 {

class LocalFile;

class Barrier {
public:
    // More than this in one write is a matter for a flush, and so are writes farther apart than
    // this: what others have written between them is waited for, too.
    static constexpr std::uint64_t bytes_max = 64 << 10;
    static constexpr std::uint64_t range_max = 16 << 20;

    // The file must outlive this. It must be open for writing: from a
    // descriptor for reading msync succeeds and writes nothing.
    explicit Barrier(LocalFile &file);

    // Before the write: true if the file has something else there.
    bool differs(std::uint64_t offset, Bytes bytes) const;
    // After the write: true if the file has exactly this.
    bool holds(std::uint64_t offset, Bytes bytes) const;
    // Makes it durable. False: it cannot be done in this way, and nothing was.
    // An error is as final as that of a flush.
    Result<bool> make_durable(Range bytes);

private:
    LocalFile &file_;
    const std::uint64_t page_bytes_;
};

}  // namespace qcow2
