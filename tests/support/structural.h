// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The harness for operations that change the structure of an image: bitmaps,
// size, snapshots. Whatever happens in between, the operation has taken place
// wholly or not at all, in all that somebody can see of the image (DiskState).
//
//     const Structural structural{built.image, [](Disk &disk) { return ...; }};
//     structural.crash_at_every_event(random);
//     structural.fail_at_every_io();
//
// Both expect what the operation makes of the image undisturbed, and complain
// by BOOST_REQUIRE. They return how many states they have looked at.

#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/disk.h"
#include "core/format/bitmap_directory.h"
#include "core/format/extensions.h"
#include "tests/support/image_reader.h"
#include "tests/support/memory_store.h"
#include "tests/support/random.h"

namespace qcow2::test {

// The bytes of a disk, where they are not zero.
using Content = std::map<std::uint64_t, Buffer>;  // by offset, pieces of 4 KiB
Content content_of(Disk &disk);

// All that somebody can see of an image.
struct DiskState {
    struct Snapshot {
        std::string id;
        std::string name;
        std::uint64_t size = 0;
        Content content;
        friend bool operator==(const Snapshot &, const Snapshot &) = default;
    };
    struct Bitmap {
        std::string name;
        std::uint32_t flags = 0;
        std::uint32_t granularity_bits = 0;
        Buffer extra_data;
        BitVector bits;  // none where an inconsistent bitmap has no right form
        friend bool operator==(const Bitmap &, const Bitmap &) = default;
    };
    std::uint64_t size = 0;
    Content content;
    std::vector<Snapshot> snapshots;
    std::vector<Bitmap> bitmaps;
    // In the header area, but for bitmaps and the names of features.
    std::vector<Extension> extensions;
    std::string backing_file_name;

    friend bool operator==(const DiskState &, const DiskState &) = default;
    std::string text() const;
};

// Reads with the engine, read-only, and bitmaps without it. An error: the image
// does not open, or something in it cannot be read.
Result<DiskState> state_of(const StoreImage &image, DiskOptions options = {});

class Structural {
public:
    using Operation = std::function<Result<void>(Disk &)>;

    Structural(StoreImage image, Operation operation, DiskOptions options = {},
               StoreOptions store = {});

    const DiskState &before() const { return before_; }
    const DiskState &after() const { return after_; }
    // The file after the operation and a clean stop.
    const StoreImage &done() const { return done_; }

    // The power fails at each event of the operation, what is not flushed is
    // lost, there or torn. The image is sound (leaks at worst) and the state is
    // that before or that after; now and then, the operation is done again.
    std::uint64_t crash_at_every_event(Random &random) const;

    // The n-th I/O fails, for n = 1, 2, ... until the operation succeeds; every
    // kind of I/O and of failure. The disk serves on, or nothing is written
    // any more and it says so.
    std::uint64_t fail_at_every_io() const;

private:
    std::string verdict(const StoreImage &image) const;
    void again(const StoreImage &image, const std::string &how) const;
    void trial(class FaultPlan &plan, const std::string &how) const;

    const StoreImage image_;
    const Operation operation_;
    const DiskOptions options_;
    const StoreOptions store_options_;
    DiskState before_, after_;
    StoreImage done_;
};

}  // namespace qcow2::test
