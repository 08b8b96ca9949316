// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What must be true of a file. Each verdict is empty if it is, else it says in
// words what is not.

#pragma once

#include <memory>
#include <string>

#include "core/check/check.h"
#include "core/disk.h"
#include "tests/support/image_reader.h"
#include "tests/support/memory_store.h"
#include "tests/support/reference_disk.h"

namespace qcow2::test {

enum class Bitmaps {
    exact,     // every bit, and not in_use (but those that were found so)
    superset,  // no room was left: in_use, or more bits than needed
};

// After a clean stop: core/check finds nothing; each byte is the reference's;
// so are the bitmaps.
std::string clean_stop_verdict(const StoreImage &image, const ReferenceDisk &reference,
                               Bitmaps bitmaps = Bitmaps::exact);

// After a crash, the four questions, without the engine: core/check finds
// leaks at worst; each flushed byte is there, each other old or new; each
// enabled bitmap covers what differs from `before`, whose bits are those of the
// beginning, or is marked in_use if it may be; the others are as they were.
struct CrashAllowance {
    bool marked = false;    // a bitmap may be in_use
    bool in_place = false;  // a change of snapshots may have had no room aside
};
std::string crash_verdict(const StoreImage &image, const ReferenceDisk &before,
                          const GuestHistory &history, std::uint64_t event,
                          CrashAllowance allowed = {}, const DiskOptions *by_disk = nullptr);

// A change of snapshots in place may leave refcounts that are too high, and bits 63 that are
// clear where the refcount is 1; no more. (Of each kind the first findings are looked at.)
bool harmless_in_place(const CheckReport &report);

// What the guest finds in a file: by ImageReader, or by a Disk that only reads,
// where that cannot: compressed clusters, subclusters, backing files. (The Disk
// shares its code with what is tested, but nothing that was in memory.)
class GuestView {
public:
    static Result<GuestView> open(ByteStore &store, const DiskOptions *by_disk = nullptr);

    std::uint64_t size() const { return reader_.disk_size(); }
    const ImageReader &reader() const { return reader_; }
    // Behind the end there are zeros.
    Result<void> read(GuestOffset offset, MutableBytes bytes) const;

private:
    explicit GuestView(ImageReader reader) : reader_(std::move(reader)) {}

    ImageReader reader_;
    std::unique_ptr<Disk> disk_;
};

// By qemu-img check, if it is installed. Leaks may be all right.
std::string qemu_verdict(const StoreImage &image, bool leaks_are_right);

}  // namespace qcow2::test
