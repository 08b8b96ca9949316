// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk::Live: the disk as those see it who keep what it was: from outside of its
// gate, or inside of it. Part of disk.cpp.

#pragma once

#include "core/disk.h"
#include "core/image/image.h"

namespace qcow2 {

class Disk::Live final : public LiveDisk {
public:
    Live(Disk &disk, bool passes) : disk_(disk), passes_(passes) {}

    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        return in_gate([&]() -> Result<void> {
            TRY(disk_.check_range(Range::of(offset.value, bytes.size())));
            return disk_.image_->read(offset, bytes);
        });
    }

    Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) override
    {
        return in_gate([&]() -> Result<Extent> {
            TRY(disk_.check_range(Range::of(offset, length_max)));
            return disk_.image_->status(offset, length_max);
        });
    }

private:
    template <class Function>
    auto in_gate(Function function) -> decltype(function())
    {
        if (!passes_)
            return function();
        Passage passage(disk_.gate_);
        return function();
    }

    Disk &disk_;
    const bool passes_;
};

}  // namespace qcow2
