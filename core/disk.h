// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk: one virtual disk, that is an image and its dirty bitmaps. The only
// place that decides the order between the two (rules B).
//
// open() reads and checks everything that can be told without writing, and
// writes nothing. begin_writing() does what the options ask for. After that
// any thread may call anything but close(), any number at a time. Ranges must
// lie inside size(); offsets and lengths are bytes of any alignment.
//
// restructure() may put another image in the place of the one that is open. So
// each request asks for what it needs inside the gate: size() and the like are
// right at the moment they are asked, and wait while the structure changes.
//
// Errors: no_space (the store is full; nothing was harmed), io, corrupt (a
// pointer of the image is wrong; the message names the place), read_only, and
// in the error state (rule W5) io with the first cause in every message.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/base/byte_store.h"
#include "core/base/gate.h"
#include "core/base/lane.h"
#include "core/base/range.h"
#include "core/base/result.h"
#include "core/bitmap/arming_limits.h"
#include "core/bitmap/bitmap_sync.h"
#include "core/bitmap/report.h"
#include "core/disk_backups.h"
#include "core/format/units.h"
#include "core/image/named_file.h"
#include "core/image/snapshot_reader.h"
#include "core/structure/bitmap_changes.h"

namespace qcow2 {

class Tracker;
struct Cooling;
struct ImageFiles;

struct DiskOptions {
    // These bitmaps exist and are enabled: made if absent. Names are 1 to 1023
    // bytes. On a disabled or inconsistent one open() fails with the cure.
    std::vector<std::string> bitmaps;
    // For those that are made; nullopt: QEMU's default for the image.
    std::optional<std::uint32_t> bitmap_granularity_bits;
    // nullopt: durable, or on_close with a warning if the store cannot flush.
    std::optional<BitmapSync> bitmap_sync;
    ArmingLimits arming;
    // Inconsistent bitmaps become valid again, with all bits set.
    bool recover_all_dirty = false;
    // Memory for L2 tables and refcount blocks, bytes; 0: enough for 210 GiB.
    std::uint64_t cache_bytes = 0;
    // Opens the files that the image names (backing files); nullptr: such an
    // image is refused. Must outlive the disk. And the path of the image
    // itself, what names in it are relative to; empty if it is no local file.
    FileOpener *files = nullptr;
    std::string path;
    std::string identity;
    // Trim and zero leave what is allocated allocated.
    bool keep_clusters = false;
    // The ID or name of an internal snapshot to serve, read-only, instead of the
    // active state. Bitmaps tell of the active state, and are not looked at.
    std::optional<std::string> snapshot;
    // The image is only looked at now. A dirty one (lazy refcounts) will be
    // repaired (check/repair.h) before it is opened to be written to.
    bool repaired_first = false;
    // The disk has at least this size, bytes: begin_writing() grows it. 0: any.
    std::uint64_t size_min = 0;
    // Nothing will be written; the keys that ask for a change are ignored.
    bool read_only = false;
    // Not to be served: bitmaps are to be removed, and what is wrong with them
    // does not forbid that.
    bool mends_bitmaps = false;
    // Who makes room for what is overwritten while a backup runs; nullptr: no backup
    // can begin. Must outlive the disk.
    ScratchMaker *scratch = nullptr;
};

struct ZeroFlags {
    bool may_unmap = true;  // false: what is allocated stays allocated
    bool fast = false;      // unsupported at once if it is no faster than writing zeros
    bool fua = false;
};

// One bitmap, as it is now.
struct BitmapState {
    std::string name;
    std::uint64_t granularity = 0;  // bytes
    std::uint64_t dirty_bytes = 0;  // of the disk; 0 if what it says is not known
    std::uint64_t extra_bytes = 0;  // that a crash would report too many, at most
    bool enabled = false;
    bool inconsistent = false;    // in_use in the file since before, or given up
    bool busy = false;            // a backup that runs has it
    std::string why_not_tracked;  // enabled, and not kept true
};

// What can be changed together.
struct MakeSnapshot {
    NewSnapshot snapshot;
};
struct BeginBackup {
    BackupRequest request;
};
using DiskStep = std::variant<BitmapStep, MakeSnapshot, BeginBackup>;

class Disk {
public:
    // The store must outlive the disk.
    static Result<std::unique_ptr<Disk>> open(ByteStore &store, const DiskOptions &options);
    ~Disk();
    Disk(const Disk &) = delete;
    Disk &operator=(const Disk &) = delete;

    std::uint64_t size() const;                                   // bytes, a multiple of 512
    std::uint64_t cluster_size() const { return cluster_size_; }  // bytes
    // Set if the disk can only be read: the option, the store, or a finding
    // that forbids writing. The sentence for the person at the terminal.
    std::optional<Error> why_read_only() const;
    // Set if nothing can be done with the disk any more: its structure was
    // changed, and then the image could not be opened anew. Every request fails.
    std::optional<Error> failed() const;
    // And whether a flush had failed before that: then the image is not to be
    // opened again, for nobody knows what was lost (W5).
    bool failed_after_flush() const;
    // Set if a flush has failed, or the image was found to be corrupt: nothing is written
    // any more (W5). The first cause.
    std::optional<Error> why_not_written() const;
    // Set if the file ends before what the image names in it, because it was cut:
    // the sentence for the person at the terminal. What was there is an error.
    const std::optional<std::string> &what_is_missing() const { return what_is_missing_; }
    // False: nothing can be made durable; flush() succeeds and means nothing.
    bool can_flush() const { return can_flush_; }
    // A line for each thing the person should know: bitmaps and their states,
    // as they stand in the file. Reads them all.
    // how_much: and how much of each is dirty, which takes reading all of them.
    std::vector<ReportLine> report(bool how_much) const;

    // Lines for the person at the terminal, before begin_writing(): which bitmaps
    // are kept otherwise than asked for, and which are made and cannot know what
    // was written before. None on a read-only disk.
    std::vector<std::string> announcements() const;

    // Once, before the first write, zero or trim: makes the disk as large, and
    // recovers and makes the bitmaps, as the options ask; each enabled one gets a
    // place for its last bits (B7). What a file that was cut has lost is made sure
    // to stay an error (W7). Nothing to do on a read-only disk.
    Result<void> begin_writing();

    Result<void> read(GuestOffset offset, MutableBytes bytes);
    Result<void> write(GuestOffset offset, Bytes bytes, bool fua);
    Result<void> zero(GuestOffset offset, std::uint64_t length, ZeroFlags flags);
    Result<void> trim(GuestOffset offset, std::uint64_t length, bool fua);
    Result<void> flush();
    // Reads ahead what a later read of the range needs.
    Result<void> cache(GuestOffset offset, std::uint64_t length);
    // Consecutive extents from the offset on; at least one, and they cover the
    // range unless it takes very many steps to find them.
    Result<std::vector<Extent>> block_status(GuestOffset offset, std::uint64_t length);

    // How many requests that change something have come so far, and whether one
    // of them is under way. If nothing moves for some seconds, it is time to
    // settle().
    std::uint64_t changes() const { return changes_.begun(); }
    bool changing() const { return changes_.any(); }
    // True if the file is as a clean stop leaves it (but for its length).
    bool settled() const { return settled_.load(); }
    // Brings the file to what a clean stop leaves: everything durable, bitmaps
    // stored and in_use off, reserved clusters given back. The next write takes
    // it back by itself. The long part, a flush, keeps nobody waiting, the rest
    // keeps all requests. So if a change is under way or comes during the
    // flush, it was only a flush: settled() tells.
    Result<void> settle();

    // To be called every few seconds: parts of the disk that are not written to
    // any more are not reported as changed after a crash; bitmaps that were given
    // up for lack of room become valid again, with all bits set, if there is room.
    Result<void> cool();

    // Changes the structure of the image: its size, snapshots, bitmaps (H1).
    // Requests wait. The operation finds the file as a clean stop leaves it and
    // takes effect by one commit (core/structure/aside.h). Then image and bitmaps
    // are opened anew, as a restart would, so that it need not keep right what
    // is known of them in memory. May be called before begin_writing() and with
    // requests under way.
    //
    // If the operation fails, nothing has changed and the disk serves on. If
    // the image cannot be opened anew, every request fails with the cause.
    using Restructuring = std::function<Result<void>(Image &)>;
    Result<void> restructure(const Restructuring &operation);

    // The disk gets another size, rounded up to 512 bytes; all bitmaps follow.
    // What is new reads as zeros and is clean in every bitmap; what is cut off
    // is gone, but for snapshots.
    Result<void> resize(std::uint64_t size);
    // Whether it could: the error is told in the words of the one that cannot.
    Result<void> check_resize(std::uint64_t size) const;

    // Bitmaps and snapshots, step by step, each seeing what those before it have
    // done: all or nothing, also against a crash, by one commit (H1); and the begin of a
    // backup at that instant. One snapshot at most, and one backup, which is returned
    // (nullptr: none). Where no snapshot is made, the image stays open, and so do the bits in
    // memory of bitmaps that are not concerned, and the disk is not settled for it.
    // not_found, exists, busy, invalid, no_space, io, read_only.
    Result<std::shared_ptr<const Backup>> change_together(const std::vector<DiskStep> &steps);

    // From now on the backup shows what the disk is now (F1). Nothing is written, unless
    // a bitmap has to be made.
    Result<std::shared_ptr<const Backup>> begin_backup(const BackupRequest &request);
    // success: its bitmaps say from now on what has changed since it began; busy: it is
    // broken. Without success they stay what they are (F4). not_found.
    Result<void> end_backup(std::string_view id, bool success);
    // Those that run, oldest first; nullptr: there is none of this ID.
    std::vector<std::shared_ptr<const Backup>> backups() const;
    std::shared_ptr<const Backup> backup(std::string_view id) const;

    // All of them, in the order of the directory. how_much: and how much of each is
    // dirty, for which what is not in memory is read.
    Result<std::vector<BitmapState>> bitmap_states(bool how_much = true);

    // Internal snapshots, as the file has them. The operations are structural
    // changes (structure/snapshot_change.h tells what they refuse). While they are prepared
    // requests pass that leave the mapping as it is (disk_ajar.cpp). not_found.
    Result<std::vector<Snapshot>> snapshots();
    Result<void> create_snapshot(const NewSnapshot &snapshot);
    // To be read beside the disk. As long as somebody has it the snapshot can neither be
    // deleted nor reverted to (busy). The disk's store must outlive it.
    Result<std::shared_ptr<SnapshotReader>> open_snapshot(std::string_view id_or_name);
    Result<void> delete_snapshot(std::string_view id_or_name);
    // The disk becomes what the snapshot is, also in size; enabled bitmaps have
    // all bits set.
    Result<void> revert(std::string_view id_or_name);

    // Backups end as failed, and the file is brought to what close() leaves, with requests
    // under way, and stays so: later ones fail (shut_down). If it cannot be, all goes on.
    Result<void> stop();

    // settle(), then cuts the file back. No request is under way or comes.
    Result<void> close();

private:
    struct Opened {
        std::unique_ptr<Image> image;
        std::unique_ptr<Tracker> tracker;
    };
    Disk(ByteStore &store, const DiskOptions &options, Opened opened);

    static Result<Opened> open_with_bitmaps(ByteStore &store, const DiskOptions &options,
                                            std::optional<ImageFiles> files);

    static Result<std::unique_ptr<Tracker>> make_tracker(Image &image, const ByteStore &store,
                                                         const DiskOptions &options);

    // The disk as those see it who keep what it was.
    class Live;
    enum class Parts { whole, several };  // how a change goes down

    template <class Place, class Overwrite, class Change>
    Result<void> change(Range range, bool fua, Parts parts, Place place, Overwrite overwrite,
                        Change change);
    template <class Place, class Overwrite, class Change>
    Result<void> change_inside(Range range, bool fua, Parts parts, Place place, Overwrite overwrite,
                               Change change);
    Result<bool> overwrite(GuestOffset offset, Bytes bytes, bool fua);
    bool backups_take_room() const;
    void end_all_backups();
    Result<void> trim_parts(Range range, bool fua);
    Result<void> trim_all(Range range, bool fua);
    // All inside the gate; all but the first two with nobody else inside.
    Result<void> readable() const { return broken_ ? Result<void>(*broken_) : Result<void>(); }
    std::optional<Error> why_read_only_of(const Image &image, const Tracker &tracker) const;
    Result<void> check_range(Range range) const;
    Result<void> begin_alone();
    Result<void> settle_beforehand();
    Result<void> cool_bitmaps(Cooling cooling);
    void cool_beforehand(Cooling cooling);
    // Whether an image that is opened anew reads bits from the file, which has them all, or takes
    // over those in memory: bitmaps were left alone.
    enum class Bits { read, kept };
    Result<void> restructure_beforehand(Bits bits = Bits::read);
    void look_for_free();
    // kept: bits that are in memory stay there, and the file covers more than it has to.
    Result<void> settle_alone(Bits bits = Bits::read);
    Result<void> take_back_alone();
    Result<void> restructure_alone(const Restructuring &operation);
    Result<void> change_structure(const Restructuring &operation, Bits bits = Bits::read);
    // A structure that is prepared while some requests pass (disk_ajar.cpp).
    enum class Meanwhile { reads, overwrites };
    using Preparation = std::function<Result<void>(Image &, const BecomeAlone &)>;
    static Bits bits_after(Meanwhile who)
    {
        return who == Meanwhile::overwrites ? Bits::kept : Bits::read;
    }
    // A snapshot alone reads no bits.
    static Bits bits_after(const std::vector<DiskStep> &steps)
    {
        return steps.size() == 1 ? Bits::kept : Bits::read;
    }
    class Passing;
    Result<void> restructure_ajar(Meanwhile who, const Preparation &operation);
    Result<void> change_structure_ajar(Meanwhile who, const Preparation &operation);
    Result<void> writable_alone();
    Result<void> settle_before_restructuring(Bits bits = Bits::read);
    Result<void> give_back_after(Result<void> done);
    struct NewBackup {
        const BackupRequest *request = nullptr;
        std::unique_ptr<Scratch> scratch;
        bool is_alone = false;  // nothing in the file had to change for it when it was prepared
    };
    Result<NewBackup> prepare_backup(const std::vector<DiskStep> &steps);
    bool is_begin_alone(const std::vector<DiskStep> &steps) const;
    Result<void> plan_backup(BitmapChanges &bitmaps, const BackupRequest &request) const;
    Result<void> plan(BitmapChanges &bitmaps, const DiskStep &step, std::vector<std::string> &taken,
                      const MakeSnapshot *&snapshot) const;
    Result<void> check_no_backup(const std::string &what) const;
    Result<void> change_together_alone(const std::vector<DiskStep> &steps);
    Result<void> store_beforehand(const std::vector<DiskStep> &steps);
    Result<void> change_bitmaps_alone(BitmapChanges &changes);
    Result<void> open_bitmaps_anew(const std::vector<std::optional<std::size_t>> &kept);
    Result<void> check_resize_alone(std::uint64_t size) const;
    Result<void> resize_alone(std::uint64_t size);
    Result<void> open_anew(Bits bits = Bits::read);
    void make_room_for_bits();
    Result<void> open_what_is_there(Bits bits);

    ByteStore &store_;
    const DiskOptions options_;
    const std::uint64_t cluster_size_;
    const bool can_flush_;
    const std::optional<std::string> what_is_missing_;
    mutable Gate gate_{Rank::gate};

    // Change while the gate is closed.
    bool begun_ = false;            // something may have been written
    bool serving_ = false;          // begin_writing() has been here
    std::unique_ptr<Image> image_;  // these two are there unless broken_
    std::unique_ptr<Tracker> tracker_;
    std::optional<Error> why_read_only_;
    std::optional<Meanwhile> ajar_;  // the gate is, and who passes
    std::optional<Error> broken_;    // why the image could not be opened anew
    bool flush_failed_ = false;      // before it broke

    ServedSnapshots served_;
    const std::unique_ptr<Live> outside_, inside_;  // of the gate
    Backups backups_;
    Activity changes_;  // they end well or not
    std::atomic<bool> settled_{true};
};

}  // namespace qcow2
