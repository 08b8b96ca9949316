// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ReferenceDisk: what a virtual disk and its bitmaps are by definition: flat
// bytes, and a flag for each granule. And GuestHistory: what a guest may find
// after a crash.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/bit_vector.h"
#include "core/format/units.h"
#include "tests/support/sparse_bytes.h"

namespace qcow2::test {

struct ReferenceBitmap {
    std::uint32_t granularity_bits = 16;
    bool enabled = true;
    bool in_use = false;  // found so: kept as it is
    BitVector bits = {};
    // The event by which it was made: before that it may be missing.
    std::uint64_t made_at = 0;
    // Made, changed and removed by the test: it may be there, with any bits.
    bool passing = false;
};

// One thread.
class ReferenceDisk {
public:
    explicit ReferenceDisk(std::uint64_t size) : size_(size) {}

    std::uint64_t size() const { return size_; }

    void write(GuestOffset offset, Bytes bytes);
    void zero(GuestOffset offset, std::uint64_t length);
    // Sets the bits of what was changed in a way that this does not know.
    void mark(GuestOffset offset, std::uint64_t length);
    // What was there before anything was tracked.
    void preset(GuestOffset offset, Bytes bytes) { bytes_.write(offset.value, bytes); }

    Buffer read(GuestOffset offset, std::uint64_t length) const
    {
        return bytes_.copy(offset.value, length);
    }
    // What is wrong with what was found there, in words; empty if nothing is.
    std::string difference(GuestOffset offset, Bytes found) const;
    const SparseBytes &bytes() const { return bytes_; }

    // What is cut off is gone; what is new is zeros, and clean. (Bitmaps that
    // are in_use, too.)
    void resize(std::uint64_t size);

    void add_bitmap(const std::string &name, std::uint32_t granularity_bits, bool enabled = true);
    std::map<std::string, ReferenceBitmap> &bitmaps() { return bitmaps_; }
    const std::map<std::string, ReferenceBitmap> &bitmaps() const { return bitmaps_; }

private:
    std::uint64_t size_;
    SparseBytes bytes_;
    std::map<std::string, ReferenceBitmap> bitmaps_;
};

// Which contents each sector of a disk may have after a crash: those of the
// last change that a guest flush has made durable, or of any later one that
// had begun. Times are events of a recording, and each is that of one begin, one
// end or one flush alone (RecordingStore::tick): of two that have the same nobody
// could tell which was first. Any thread; each sector is changed by one at a time.
class GuestHistory {
public:
    static constexpr std::uint64_t never = ~std::uint64_t(0);

    // content: the sectors of the disk that [offset, offset + length) touches,
    // as they are after the change.
    using Change = std::size_t;
    Change begin(std::uint64_t now, GuestOffset offset, std::uint64_t length,
                 const ReferenceDisk &after);
    void end(std::uint64_t now, Change change);
    // A change that is durable when it has returned (FUA).
    void end_durable(std::uint64_t now, Change change);
    // A flush that succeeded: when it began and when it had returned.
    void flushed(std::uint64_t begun, std::uint64_t returned);

    // What is wrong with what is found in a crash at `event`; empty if nothing
    // is. Reads every sector that was ever changed, ascending, some at once; what
    // is behind the end of `before`, the disk without any of the changes, is zeros.
    std::string verdict(std::uint64_t event, const ReferenceDisk &before,
                        const std::function<void(GuestOffset, MutableBytes)> &read) const;

    // There was a crash at `event`; what `read` finds is where life goes on at
    // `now`, a later time: durably (the power failed), or not yet (the process
    // was killed). Changes that had not begun never were. The content goes
    // into `into`, too.
    void crashed(std::uint64_t event, std::uint64_t now, bool durable,
                 const std::function<void(GuestOffset, MutableBytes)> &read, ReferenceDisk &into);

private:
    // The changes of a sector up to the event in words.
    std::string describe(std::uint64_t sector, std::uint64_t event) const;

    struct Version {
        std::uint64_t hash;
        std::uint64_t begun;
        Change change;
    };
    struct Times {
        std::uint64_t returned = never;
        std::uint64_t durable = never;  // the earliest event at which it is known to be
    };

    // Whether a crash at `event` may leave this in a sector of these versions.
    bool may_be(Bytes content, std::uint64_t sector, const std::vector<Version> &versions,
                std::uint64_t event, const ReferenceDisk &before) const;

    mutable std::mutex mutex_;
    // Guarded by it:
    std::map<std::uint64_t, std::vector<Version>> versions_;  // by sector
    std::vector<Times> changes_;
};

}  // namespace qcow2::test
