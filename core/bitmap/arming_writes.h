// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ArmingWrites: small writes that are to be durable together, by one barrier. Some share one of
// their own (ByteStore::write_all_durable), which costs less than a flush of the whole store;
// where there are many it is such a flush. Who writes does not know how many there will be: so
// the first ones wait in memory, and when there are more they go down, and all that come then at
// once. A thousand bitmaps may have ten thousand pages: no more than 256 KiB are ever held.
//
// One thread.

#pragma once

#include <vector>

#include "core/bitmap/stored_bitmap.h"

namespace qcow2 {

class ArmingWrites {
public:
    explicit ArmingWrites(ByteStore &store) : store_(store) {}

    // May be written now, or later.
    Result<void> add(std::uint64_t offset, Bytes bytes);
    // What was added is written now, if it was not yet. Not durable.
    Result<void> write();
    // What was added is durable. Says how many barriers that took.
    Result<std::uint64_t> make_durable();

private:
    ByteStore &store_;
    std::vector<SmallWrite> held_;
    bool need_flush_ = false;  // some were written
};

}  // namespace qcow2
