// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/arming_writes.h"

namespace qcow2 {

namespace {

// More writes than this share a flush of the whole store: each barrier of its
// own costs a turn of the device.
constexpr std::size_t barriers_max = 2;

}  // namespace

Result<void> ArmingWrites::add(std::uint64_t offset, Bytes bytes)
{
    if (!need_flush_ && held_.size() < barriers_max) {
        held_.push_back({offset, {bytes.begin(), bytes.end()}});
        return {};
    }
    TRY(write());
    return store_.write(offset, bytes);
}

Result<void> ArmingWrites::write()
{
    need_flush_ = true;
    for (const SmallWrite &write : held_)
        TRY(store_.write(write.offset, write.bytes));
    held_.clear();
    return {};
}

Result<std::uint64_t> ArmingWrites::make_durable()
{
    if (need_flush_) {
        TRY(store_.flush());
        return std::uint64_t(1);
    }
    for (const SmallWrite &write : held_)
        TRY(store_.write_durable(write.offset, write.bytes));
    return std::uint64_t(held_.size());
}

}  // namespace qcow2
