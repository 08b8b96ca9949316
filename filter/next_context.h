// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// NextContext: one context into the layer below, opened, prepared, and asked
// for everything that nbdkit wants to have been asked before it lets data
// through. It cuts requests as the layer likes them, and has the size that the
// layer had when it was opened, for ever: nbdkit stops the server if a request
// passes it.
//
// Any thread. Ranges lie inside size().

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include <nbdkit-filter.h>

#include "core/base/byte_store.h"
#include "core/base/bytes.h"
#include "core/base/gate.h"
#include "core/base/result.h"
#include "filter/request_pieces.h"

namespace qcow2 {

// What all contexts of one store share.
struct NextCalls {
    // True if nbdkit's thread model is less than parallel. Then nbdkit holds
    // back clients, but not our own threads, and all of us meet in one context.
    explicit NextCalls(bool serialised) : serialised(serialised) {}

    const bool serialised;
    // Held for one call to the layer if serialised; nothing of ours is taken
    // under it.
    std::mutex one_at_a_time;
    // If the layer has blocks: closed while a part of one is read, changed and
    // written, so that no whole block is written between.
    Gate whole_blocks{Rank::store};
};

class NextContext {
public:
    // unsupported: the layer's blocks are too large.
    static Result<std::unique_ptr<NextContext>> open(nbdkit_backend *backend, bool read_only,
                                                     NextCalls &calls);
    ~NextContext();
    NextContext(const NextContext &) = delete;
    NextContext &operator=(const NextContext &) = delete;

    std::uint64_t size() const { return size_; }
    bool can_write() const { return can_write_; }
    bool can_flush() const { return can_flush_; }
    // A flush here covers what was written through other contexts.
    bool can_multi_conn() const { return can_multi_conn_; }
    bool rotational() const { return rotational_; }

    Result<void> read(std::uint64_t offset, MutableBytes bytes);
    // As ByteStore::stretch().
    ByteStore::Stretch stretch(std::uint64_t offset, std::uint64_t length_max);
    // Only if can_write().
    Result<void> write(std::uint64_t offset, Bytes bytes);
    Result<void> zero(const Range &range, bool may_unmap);
    // Does nothing where the layer cannot trim.
    Result<void> discard(const Range &range);
    // Only if can_flush().
    Result<void> flush();

private:
    NextContext(nbdkit_next *next, NextCalls &calls) : next_(next), calls_(calls) {}
    Result<void> prepare();
    Result<void> ask();
    Result<void> ask_block_size();

    // One call to the layer each.
    Result<void> call_read(const Range &io, std::uint8_t *bytes);
    Result<void> call_write(const Range &io, const std::uint8_t *bytes);
    Result<void> call_zero(const Range &io, bool may_unmap);
    Result<void> call_trim(const Range &io);

    // For all that changes whole blocks.
    template <class Change>
    Result<void> change_whole(Change change);
    Result<void> write_part(const Piece &piece, const std::uint8_t *bytes);
    Result<void> write_zeros(const Range &range);

    template <class Call>
    auto call(Call call);

    nbdkit_next *const next_;
    NextCalls &calls_;

    // Constant after open.
    bool prepared_ = false;
    std::uint64_t size_ = 0;
    BlockLimits limits_;
    bool can_write_ = false;
    bool can_flush_ = false;
    bool can_trim_ = false;
    bool can_zero_ = false;
    bool can_multi_conn_ = false;
    bool can_extents_ = false;
    bool rotational_ = false;
};

}  // namespace qcow2
