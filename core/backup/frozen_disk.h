// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FrozenDisk: a disk as it was at one instant, for as long as its backup runs.
// Held by shared_ptr, by the backup and by those who read it. FrozenDisks makes
// it, and must outlive every call.
//
// Any thread that is outside of the disk's gate.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/backup/keepings.h"
#include "core/backup/live_disk.h"

namespace qcow2 {

class FrozenDisk {
public:
    FrozenDisk(std::shared_ptr<Standing> standing, std::uint64_t size, LiveDisk &live,
               const CurrentKeepings &keepings)
        : standing_(std::move(standing)), size_(size), live_(live), keepings_(keepings)
    {
    }
    FrozenDisk(const FrozenDisk &) = delete;
    FrozenDisk &operator=(const FrozenDisk &) = delete;

    const std::string &name() const { return standing_->name(); }
    std::uint64_t size() const { return size_; }  // bytes

    // io, with the reason, if it is broken or has ended (F3), for what is not needed, and for
    // what could not be read when it was overwritten; invalid outside of the disk.
    Result<void> read(GuestOffset offset, MutableBytes bytes);
    // Consecutive extents from the offset on, as at the instant; not none, and they cover the
    // range unless it takes very many steps to find them. What read() gives no bytes of
    // is told as data.
    Result<std::vector<Extent>> status(std::uint64_t offset, std::uint64_t length);

    // Why nothing of it can be read any more.
    std::optional<std::string> broken() const { return standing_->broken(); }
    std::uint64_t scratch_bytes() const;  // used now
    std::uint64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

private:
    friend class FrozenDisks;

    Result<void> check_range(std::uint64_t offset, std::uint64_t length) const;
    Result<std::uint64_t> read_some(Range range, MutableBytes bytes);
    Result<Extent> first_extent(Range range);
    Result<Extent> status_of_some(Range range);
    std::uint64_t still_live(Range range) const;

    const std::shared_ptr<Standing> standing_;
    const std::uint64_t size_;
    LiveDisk &live_;
    const CurrentKeepings &keepings_;
    std::atomic<std::uint64_t> bytes_read_{0};
};

}  // namespace qcow2
