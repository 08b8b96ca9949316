// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Backups: what stands between the begin of a backup and its end, of one disk.
//
// A backup shows the disk, and the bits of the bitmaps that it names, as they
// were at one instant. From that instant on what changes is recorded once more
// beside each of these bitmaps (ChangesSince). In the file, and for all others, the
// bitmap goes on as if nothing were. If the backup ends well, the record takes the
// place of the bitmap's bits; if it ends in any other way, a crash included, it is
// forgotten. So (F4) the bitmap covers at every instant all changes since the last
// backup that was said to have succeeded, and there is nothing to clean up.
//
// The list changes while the gate of the disk is closed, and is looked at by those
// who are inside. Disk calls all this; the words "alone" and "inside" say how.

#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/backup/frozen_disks.h"
#include "core/bitmap/frozen_bits.h"

namespace qcow2 {

class Tracker;
struct ChangesSince;

struct BackupRequest {
    std::string id = {};                    // 1 to 255 bytes of [A-Za-z0-9._-], not running
    std::vector<std::string> bitmaps = {};  // rotated if the backup succeeds
    // Of what is dirty in the bitmaps, which are there; else of the whole disk, and
    // a bitmap that is not there is made, all dirty until the backup has succeeded.
    bool incremental = false;
    // The frozen disk can be read everywhere, and not only around what is dirty.
    bool whole = true;
    std::optional<std::uint64_t> scratch_bytes_max = {};  // nullopt: the scratch's maker says
    // What a qcow2 file with what is dirty is to name as its backing file, as it is to stand
    // there; empty: nothing.
    std::string backing_file = {};
    std::string backing_format = {};
};

// A bitmap as it was at the instant.
struct FrozenBitmap {
    std::string name;
    std::uint64_t granularity = 0;  // bytes
    std::shared_ptr<const FrozenBits> bits;
};

// What a backup shows; held by those who show it. Constant, but for the disk's figures.
struct Backup {
    std::string id;
    bool incremental = false;
    std::chrono::system_clock::time_point instant;
    std::shared_ptr<FrozenDisk> disk;
    std::vector<FrozenBitmap> bitmaps;
    bool whole = true;         // the disk can be read everywhere
    std::string backing_file;  // as in the request
    std::string backing_format;
    std::uint64_t dirty_bytes = 0;  // of the disk, in any of the bitmaps, at most
};

class Backups {
public:
    explicit Backups(LiveDisk &outside) : frozen_(outside) {}

    FrozenDisks &frozen() { return frozen_; }
    const FrozenDisks &frozen() const { return frozen_; }

    // --- Before the gate is closed: what may take long, or fail.

    // Whether its words are right; and the room for what it will keep.
    static Result<std::unique_ptr<Scratch>> prepare(const BackupRequest &request,
                                                    ScratchMaker *maker, std::uint64_t disk_size);

    // --- Alone: the gate is closed.

    // exists. The bitmaps are tracked, nobody rotates them, and all their pages are in
    // memory; the rest needs none of the store. All or nothing.
    Result<std::shared_ptr<const Backup>> begin(const BackupRequest &request, Tracker &tracker,
                                                std::uint64_t disk_size,
                                                std::unique_ptr<Scratch> scratch);
    // The records take the place of the bits: what the bitmaps are to say from now on.
    // All or nothing; io: a bitmap could not be read.
    Result<void> rotate(const Backup &backup, Tracker &tracker);
    // Out of the list, and records are forgotten. It is then to be thawed, by one who
    // is outside of the gate.
    void remove(const Backup &backup, Tracker *tracker);
    // After bitmaps were opened anew: those who record find their bitmaps again. One
    // that is not there any more is not rotated.
    void attach(Tracker &tracker);

    // --- Inside or alone.

    std::shared_ptr<const Backup> find(std::string_view id) const;  // nullptr: there is none
    std::vector<std::shared_ptr<const Backup>> all() const;
    // The first that is not broken; nullptr: nothing depends on what the disk was.
    const Backup *first_true() const;
    // busy: a backup that runs has it.
    Result<void> check_not_busy(const std::string &bitmap) const;

private:
    struct Rotation {
        std::string bitmap;
        std::shared_ptr<ChangesSince> since;
    };
    struct Running {
        std::shared_ptr<const Backup> backup;
        std::vector<Rotation> rotations;  // as backup->bitmaps
    };
    const Running *running(std::string_view id) const;
    void attach(Rotation &rotation, Tracker &tracker);

    FrozenDisks frozen_;
    std::vector<Running> running_;
};

}  // namespace qcow2
