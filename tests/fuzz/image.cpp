// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images from anybody, and what is done with the disk. What must hold:
//
//   whatever the image  nothing dies, and no exception gets out; a store that is only
//                       read is not written to; block status covers what was asked,
//                       and what it calls zero reads as zeros; a snapshot and a backup
//                       stay what they are; no bytes of the guest come to lie in a
//                       table; a repair leaves no more wrong than there was, and a
//                       second one has nothing to do.
//   one that is sound   stays so, leaks apart, at each moment between two operations,
//                       and without them after a clean stop; and says what was
//                       written, after a restart, too.

#include <algorithm>
#include <memory>
#include <optional>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/check/repair.h"
#include "core/disk.h"
#include "tests/fuzz/file_oracle.h"
#include "tests/fuzz/image_recipe.h"
#include "tests/fuzz/input.h"
#include "tests/support/frozen_disk_driver.h"

namespace qcow2::test {

namespace {

constexpr std::uint64_t model_bytes_max = 4 << 20;
constexpr std::uint64_t request_bytes_max = 200000;
constexpr unsigned operations_max = 60;

class Trial {
public:
    Trial(FuzzInput &input, FuzzedImage made)
        : input_(input), store_(std::move(made.image)), file_(store_), leaks_(made.edited)
    {
    }

    void run();

private:
    void require_now(bool is_so, const std::string &what) const { file_.require_now(is_so, what); }
    void only_look();
    void check_repair() { file_.check_repair(input_.pick({RepairKind::all, RepairKind::leaks})); }

    DiskOptions options();
    bool open();
    void close();
    void kill();
    void load_model();
    void step();
    Range range();
    void write(Range range);
    void zero(Range range);
    void trim(Range range);
    void read(Range range);
    void status(Range range);
    void changed(const Result<void> &result, Range range, std::optional<std::uint8_t> byte);
    Result<void> change_structure();
    void structural();
    void backup();

    FuzzInput &input_;
    MemoryStore store_;
    MemoryScratchMaker scratch_;
    FileOracle file_;
    // There may be some: a disk was not closed, or behind the end of the file, where check()
    // does not look, refcounts are not 0.
    bool leaks_;
    std::unique_ptr<Disk> disk_;
    std::optional<Buffer> model_;   // what a sound disk says, if it is small
    std::optional<Buffer> backup_;  // and said when the backup began
    unsigned step_ = 0;
};

// The store ends the process where somebody writes to it.
void Trial::only_look()
{
    StoreOptions read_only;
    read_only.read_only = true;
    MemoryStore store(store_.image(), read_only);
    (void)check(store);
    (void)needs_repair(store);
    const auto opened = Disk::open(store, options());
    if (!opened)
        return;
    Disk &disk = **opened;
    disk.report(true);
    disk.announcements();
    (void)disk.begin_writing();
    (void)disk.bitmap_states();
    Buffer bytes(std::min<std::uint64_t>(disk.size(), 4096));
    (void)disk.read(GuestOffset(0), bytes);
    require_now(disk.size() < 512 || !disk.write(GuestOffset(0), Buffer(512), false),
                "written, where it cannot be");
    (void)disk.close();
}

DiskOptions Trial::options()
{
    DiskOptions options;
    options.recover_all_dirty = input_.one_in(8);
    options.read_only = input_.one_in(16);
    options.keep_clusters = input_.one_in(8);
    options.arming.region_bytes = 65536;
    if (input_.one_in(4))
        options.bitmaps = {"fuzzed"};
    if (input_.one_in(2))
        options.bitmap_sync = BitmapSync::on_close;
    options.scratch = &scratch_;
    return options;
}

bool Trial::open()
{
    file_.note_tables();
    auto opened = Disk::open(store_, options());
    if (!opened)
        return false;
    disk_ = std::move(*opened);
    disk_->report(input_.one_in(2));
    disk_->announcements();
    (void)disk_->begin_writing();
    load_model();
    return true;
}

void Trial::close()
{
    const auto closed = disk_->close();
    leaks_ |= !closed;
    disk_.reset();
    backup_.reset();
    file_.check(leaks_);
}

// What was flushed is there, and what was not may be.
void Trial::kill()
{
    if (!input_.one_in(2) || !disk_->flush())
        model_.reset();
    leaks_ = true;
    disk_.reset();
    backup_.reset();
    check_repair();
}

// After a restart it says what it said before.
void Trial::load_model()
{
    const std::optional<Buffer> before = std::move(model_);
    model_.reset();
    if (!file_.sound() || disk_->size() > model_bytes_max)
        return;
    Buffer now(disk_->size());
    if (!disk_->read(GuestOffset(0), now))
        return;
    require_now(!before || *before == now, "another disk after a restart");
    model_ = std::move(now);
}

Range Trial::range()
{
    const std::uint64_t size = disk_->size();
    if (size == 0)
        return {};
    const std::uint64_t begin = input_.below(size);
    const std::uint64_t length = std::min({size - begin, request_bytes_max, 1 + input_.number(2)});
    if (input_.one_in(2))
        return Range::of(begin, length);
    return {align_down(begin, 512), std::min(size, align_up(begin + length, 512))};
}

// byte: what is there now; nullopt: what was there, or zeros. What a change that has failed
// leaves is one or the other.
void Trial::changed(const Result<void> &result, Range range, std::optional<std::uint8_t> byte)
{
    if (!model_)
        return;
    const MutableBytes there = sub(MutableBytes(*model_), range.begin, range.length());
    if (result && byte)
        std::ranges::fill(there, *byte);
    else if (!disk_->read(GuestOffset(range.begin), there))
        model_.reset();
}

void Trial::write(Range range)
{
    const Buffer bytes(range.length(), guest_byte);
    changed(disk_->write(GuestOffset(range.begin), bytes, input_.one_in(4)), range, guest_byte);
}

void Trial::zero(Range range)
{
    const ZeroFlags flags{.may_unmap = input_.one_in(2), .fast = false, .fua = false};
    changed(disk_->zero(GuestOffset(range.begin), range.length(), flags), range, 0);
}

void Trial::trim(Range range)
{
    changed(disk_->trim(GuestOffset(range.begin), range.length(), false), range, {});
}

void Trial::read(Range range)
{
    Buffer bytes(range.length());
    const auto done = disk_->read(GuestOffset(range.begin), bytes);
    if (done && model_)
        require_now(std::ranges::equal(bytes, sub(Bytes(*model_), range.begin, range.length())),
                    "something else is read");
}

void Trial::status(Range range)
{
    const auto extents = disk_->block_status(GuestOffset(range.begin), range.length());
    if (!extents)
        return;
    require_now(!extents->empty() || range.empty(), "no extent");
    std::uint64_t begin = range.begin;
    for (const Extent &extent : *extents) {
        require_now(extent.length != 0 && begin < range.end, "extents of another range");
        Buffer bytes(std::min({extent.length, range.end - begin, request_bytes_max}));
        if (extent.zero && disk_->read(GuestOffset(begin), bytes))
            require_now(all_zero(bytes), "zero, and reads as something else");
        begin += extent.length;
    }
}

Result<void> Trial::change_structure()
{
    const std::string name = input_.pick<const char *>({"b0", "b1", "fuzzed", "more"});
    const std::string id = std::to_string(1 + input_.below(3));
    const auto change_bitmaps = [&](BitmapStep step) {
        const auto changed = disk_->change_together({DiskStep(std::move(step))});
        return changed ? Result<void>() : changed.error();
    };
    switch (input_.below(11)) {
    case 0: return change_bitmaps(AddBitmap{{.name = name, .granularity_bits = {}}});
    case 1: return change_bitmaps(RemoveBitmap{name});
    case 2: return change_bitmaps(ClearBitmap{name});
    case 3: return change_bitmaps(EnableBitmap{name});
    case 4: return change_bitmaps(DisableBitmap{name});
    case 5: return change_bitmaps(MergeBitmaps{name, {"b0"}});
    case 6: return disk_->create_snapshot({.name = name});
    case 7: return disk_->delete_snapshot(id);
    case 8: model_.reset(); return disk_->revert(id);
    default:
        model_.reset();
        return disk_->resize(std::min<std::uint64_t>(disk_->size(), 1 << 30) +
                             input_.number(2) * 512);
    }
}

// In an image that is not sound a table may become the guest's by it.
void Trial::structural()
{
    file_.check_tables();
    const Result<void> done = change_structure();
    if (!disk_->failed() && !model_)
        load_model();
    require_now(!done || !disk_->failed(), "done, and the disk has failed");
    file_.note_tables();
}

// Begun, read, or ended.
void Trial::backup()
{
    if (disk_->size() > model_bytes_max)
        return;
    const auto running = disk_->backup("id");
    if (!running) {
        BackupRequest request{.id = "id"};
        if (input_.one_in(2))
            request.bitmaps = {input_.pick<const char *>({"b0", "fuzzed"})};
        request.incremental = input_.one_in(2);
        if (disk_->begin_backup(request))
            backup_ = model_;
        return;
    }
    Buffer bytes(running->disk->size());
    const auto done = running->disk->read(GuestOffset(0), bytes);
    require_now(!done || !backup_ || *backup_ == bytes, "a backup is not what the disk was");
    if (input_.one_in(2)) {
        (void)disk_->end_backup("id", input_.one_in(2));
        backup_.reset();
    }
}

void Trial::step()
{
    const std::uint64_t what = input_.below(16);
    const Range where = range();
    switch (what) {
    case 0:
    case 1:
    case 2:
    case 3: return write(where);
    case 4: return zero(where);
    case 5: return trim(where);
    case 6: return read(where);
    case 7: return status(where);
    case 8: (void)disk_->flush(); return;
    case 9: (void)disk_->settle(); return;
    case 10: (void)disk_->cool(); return;
    case 11:
    case 12: return structural();
    case 13: return backup();
    case 14: return close();
    default: return kill();
    }
}

void Trial::run()
{
    only_look();
    check_repair();
    for (; !input_.done() && step_ < operations_max; ++step_) {
        file_.at = "operation " + std::to_string(step_) + ", ";
        if (!disk_ && !open())
            break;
        step();
        file_.check(true);
    }
    if (disk_)
        close();
    file_.check_tables();
    check_repair();
}

}  // namespace

void fuzz_image(const std::uint8_t *data, std::size_t size)
{
    set_log_sink([](LogLevel, const std::string &) {});
    FuzzInput input(data, size);
    Trial(input, image_by(input)).run();
}

}  // namespace qcow2::test
