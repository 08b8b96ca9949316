// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lives of one image, each ended by a crash: the engine runs once over a CrashStore; then
// states of the disk are made for moments of that run, and each is judged (crash_test.cpp
// tells what is asked). Life goes on from one of them.

#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/check/check.h"
#include "core/disk.h"
#include "tests/support/crash_store.h"
#include "tests/support/disk_driver.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/qemu_made.h"
#include "tests/support/verdict.h"

namespace qcow2::test {

// Of lives: what is drawn at random, and what is given.
struct Kind {
    std::uint32_t cluster_bits = 0;  // 0: any
    unsigned threads = 1;
    int steps = 60;
    bool limited = false;
    bool failing_flush = false;
    bool failing_writes = false;  // now and then; they land or not
    std::uint64_t length_max = 100000;
    bool table_grows = false;           // the refcount table is almost full
    bool fixed = false;                 // the store cannot grow, as a block device
    bool no_room = false;               // not a free cluster, and bits of many pages
    bool no_room_for_bits = false;      // not a free cluster, and bits that need one
    bool granularities = false;         // bitmaps of 512 bytes, 64 KiB and 2 GiB at once
    bool on_close = false;              // bitmap-sync=on-close, always
    bool small_regions = false;         // and nothing else than bits that come and go
    std::uint64_t size = 0;             // of the disk; 0: any
    bool ends_inside_a_sector = false;  // the file, of a small disk
    bool restructured = false;          // resized, snapshots made, applied and deleted
    bool bitmaps_change = false;  // one comes, goes and changes; the disk is not settled for it
    std::optional<QemuMade> made = {};

    // Where there is data in an image without room: the beginning of what each
    // of the first pages of bits stands for.
    static constexpr std::uint64_t page_reach = std::uint64_t(16) << 20;
    static constexpr std::uint64_t windows = 4;
    static constexpr std::uint64_t window_bytes = 64 << 10;

    bool full() const { return no_room || no_room_for_bits; }
};

// What a first life begins with.
struct Beginning {
    StoreImage image;
    ReferenceDisk reference;
    std::unique_ptr<FileOpener> files;
    std::string text;
    bool version_2 = false;
    bool qemu_opens = true;
    std::optional<GuestOffset> at_end = {};  // of the file, as BuiltImage has it

    static Beginning of(Random &random, const Kind &kind, const ImageSpec &spec);
};

// The image that the lives begin with.
ImageSpec spec_of(Random &random, const Kind &kind);

// B7: a full file may have no room for a bitmap, which then is given up, aloud.
// How often that was heard, in all lives.
struct Heard {
    std::atomic<bool> given_up{false};  // in these lives
    std::atomic<unsigned> times_given_up{0};
    std::atomic<unsigned> times_taken_back{0};
};
extern Heard heard;

class Lives {
public:
    Lives(std::uint64_t seed, const Kind &kind);

    const std::string &text() const { return beginning_.text; }
    std::uint64_t states() const { return states_; }
    std::uint64_t changes() const { return changes_; }

    void run(int lives);

private:
    bool may_be_marked() const;
    bool may_be_in_place() const { return kind_.restructured && may_be_full(); }
    // Where ImageReader cannot read it.
    const DiskOptions *by_disk() const { return kind_.made ? &reading_ : nullptr; }
    bool may_be_full() const { return kind_.limited || kind_.fixed || kind_.failing_writes; }
    bool may_fail() const { return kind_.failing_flush || kind_.failing_writes; }

    static constexpr const char *passing = "passing";

    // Lets the store fail in this step, or not; where there is no room, at the
    // first write, which is that of the table of a bitmap.
    void fail_soon(int step);
    void one_step(DiskDriver &driver, int step);

    // From here on times are those of this life.
    std::uint64_t tick() { return base_ + store_->tick(); }

    void live(bool first);
    DiskDriver::Options driver_options() const;
    DiskDriver::Clock clock();
    void change(Disk &disk);
    void work(Disk &disk, ReferenceDisk &reference, Random &random, unsigned thread,
              std::uint64_t stripe);

    // --- Structural changes: a crash finds what was before, or what is after.

    struct Snapshot {
        ReferenceDisk content;
        std::uint64_t made;
    };
    // What is true from a structural change on: of `before_`, by the name.
    struct Stage {
        std::uint64_t begun, returned;
        ReferenceDisk before;
    };

    void forget_lost_snapshots(Disk &disk);

    // False: it was refused, and nothing has changed.
    bool done(const Result<void> &result);
    void restructure(Disk &disk);

    // The disk becomes another, all of it at once. draw: changes what the disk
    // and the beginning of its bitmaps are after that; returns the operation.
    template <class Draw>
    void become(Disk &disk, Draw draw);

    // Nothing changes for the guest.
    void change_snapshots(Disk &disk, Random &random);

    // One that nothing is known of but its name. All that is known of the others stays so:
    // in memory, which a new Tracker takes over, and in the file, where they are not settled.
    void change_bitmaps(Disk &disk, Random &random);

    // What `before_` may be at an event, the older first.
    std::vector<const ReferenceDisk *> befores(std::uint64_t event) const;
    std::string verdict_of(const StoreImage &image, const ReferenceDisk &before,
                           std::uint64_t event);
    std::string verdict_of(const StoreImage &image, std::uint64_t event);

    // Looks at moments of the life that is over, and chooses how it ended.
    void crash();
    void judge(const CrashWalk &walk);
    void judge_state(const StoreImage &image, const CrashWalk &walk, const std::string &how);
    static CheckReport checked(const StoreImage &image);

    // With QCOW2_LOG: what the store was asked up to the crash.
    static std::string recording_around(const CrashWalk &walk);

    // The engine reads the same, writes on, and stops.
    void reopen(const StoreImage &image, const CrashWalk &walk);
    void go_on(std::uint64_t position, bool power);

    const Kind kind_;
    Random random_;
    const BitmapSync sync_;
    const ArmingLimits arming_;
    Beginning beginning_;
    DiskOptions reading_;   // how the image is opened
    ReferenceDisk before_;  // the beginning of all lives
    ReferenceDisk current_;
    std::vector<Stage> stages_;                  // of this life
    std::map<std::string, Snapshot> snapshots_;  // those of which the content is known
    unsigned snapshots_made_ = 0;
    Life life_;
    std::unique_ptr<CrashStore> store_;
    FaultPlan write_faults_;
    GuestHistory history_;
    std::uint64_t base_ = 0;
    std::atomic<std::uint32_t> generation_{1};
    std::uint64_t states_ = 0;
    std::uint64_t changes_ = 0;  // of the structure
};

}  // namespace qcow2::test
