// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// BackupSource: what a backup shows: a disk that does not change, and bitmaps that tell
// what of it has changed since the backup before. And what is told of it as block status.
//
// Any thread.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/format/units.h"
#include "core/image/extent.h"

namespace qcow2 {

struct BackupBitmap {
    std::string name;
    std::uint32_t granularity_bits = 16;
    // The first bit from there on that is set, or not; the number of bits if there is none.
    std::function<std::uint64_t(std::uint64_t bit, bool set)> next;
};

class BackupSource {
public:
    virtual ~BackupSource() = default;

    virtual std::uint64_t size() const = 0;  // bytes, a multiple of 512
    virtual Result<void> read(GuestOffset offset, MutableBytes bytes) = 0;
    // At least one extent from the offset on; they need not cover the range, which is not empty.
    virtual Result<std::vector<Extent>> status(std::uint64_t offset, std::uint64_t length) = 0;
    virtual const std::vector<BackupBitmap> &bitmaps() const = 0;
    // Why nothing of it can be read any more.
    virtual std::optional<std::string> broken() const { return std::nullopt; }
};

// The status of a range, as a bitmap tells it to who copies what is dirty:
//
//   clean                     a hole, and not known to be zero: "what the backing file has"
//   dirty                     data
//   dirty, reads as zeros     a hole that is zero
//
// `qemu-img convert -B` takes these so; told as zero, what is clean would be overwritten.
Result<std::vector<Extent>> dirty_status(BackupSource &source, const BackupBitmap &bitmap,
                                         std::uint64_t offset, std::uint64_t length);

}  // namespace qcow2
