// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/arming_writes.h"

namespace qcow2 {

namespace {

// As many, of 4 KiB at most each, share a barrier of their own; more a flush of the whole store.
constexpr std::size_t held_max = 64;

}  // namespace

Result<void> ArmingWrites::add(std::uint64_t offset, Bytes bytes)
{
    if (!need_flush_ && held_.size() < held_max) {
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
    if (held_.empty())
        return std::uint64_t(0);
    std::vector<ByteStore::Part> parts;
    for (const SmallWrite &write : held_)
        parts.push_back({write.offset, write.bytes});
    TRY(store_.write_all_durable(parts));
    return std::uint64_t(1);
}

}  // namespace qcow2
