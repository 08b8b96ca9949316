// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Scratch: where the old content of what is overwritten goes during a backup.
// What was at an offset of the disk is at the same offset here, so nothing has
// to be looked up; what nobody wrote takes no room. Nothing is ever made durable:
// a backup does not survive its server.
//
// Any thread; nobody reads, writes or discards bytes that another is just
// writing. Errors are told for the person who began the backup.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "core/base/bytes.h"
#include "core/base/result.h"

namespace qcow2 {

class Scratch {
public:
    virtual ~Scratch() = default;

    virtual Result<void> read(std::uint64_t offset, MutableBytes bytes) = 0;
    // Each byte is written once. no_space: there is no room, or the limit is reached.
    virtual Result<void> write(std::uint64_t offset, Bytes bytes) = 0;
    // Gives the room of bytes back that were written, and are not needed any more.
    virtual void discard(std::uint64_t offset, std::uint64_t length) = 0;
    // Written and not discarded.
    virtual std::uint64_t bytes_used() const = 0;
};

class ScratchMaker {
public:
    virtual ~ScratchMaker() = default;

    // For a disk of this size, with room for so many bytes; nullopt: the maker says. Any thread.
    virtual Result<std::unique_ptr<Scratch>> make(std::uint64_t size,
                                                  std::optional<std::uint64_t> bytes_max) = 0;
    // Its room is that of the image's file, as far as is known: where that is full, backups
    // have to go before a change of the disk fails (F2).
    virtual bool shares_room() const { return false; }
};

}  // namespace qcow2
