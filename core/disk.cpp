// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk: how it is opened, begins to be written, settles and stops. (disk_requests.cpp: what
// clients ask for; disk_structure.cpp, disk_changes.cpp, disk_ajar.cpp: what changes the structure;
// disk_begin_and_end.cpp, disk_backups.cpp: backups.)

#include "core/disk.h"

#include "core/base/log.h"
#include "core/bitmap/tracker.h"
#include "core/check/lost_names.h"
#include "core/disk_live.h"
#include "core/image/open_image.h"
#include "core/structure/operations.h"
#include "core/structure/request.h"

namespace qcow2 {

namespace {

BitmapRequest request_of(const DiskOptions &options)
{
    return {options.bitmaps, options.bitmap_granularity_bits, options.size_min,
            options.recover_all_dirty};
}

// Nothing can be durable without a flush.
Result<BitmapSync> bitmap_sync_of(const ByteStore &store, const DiskOptions &options)
{
    if (store.can_flush() || store.read_only() || options.read_only)
        return options.bitmap_sync.value_or(BitmapSync::durable);
    if (options.bitmap_sync == BitmapSync::durable)
        return Error(Errc::unsupported,
                     "bitmap-sync=durable: the layer below cannot flush, so nothing can be made "
                     "durable; bitmap-sync=on-close keeps the bitmaps as far as that goes");
    return BitmapSync::on_close;
}

// Where refcounts count what is behind the end of the file something may be named
// there as well, or its growth was lost in a crash: then nothing is.
std::optional<std::string> missing_in(ByteStore &store, const Image &image)
{
    if (!image.counts_behind_end())
        return std::nullopt;
    const std::string ends =
        formatted("the file ends at {:#x}, before what is counted in it", store.size());
    const auto lost = find_lost_names(store);
    if (!lost)
        return formatted("{}, and what is missing cannot be told: {}", ends, lost.error().what);
    if (lost->count == 0) {
        log_debug("{}; nothing is named there", ends);
        return std::nullopt;
    }
    return formatted(
        "{}: it was cut, or copied in part. {}{} behind its end, the first is {}. What was "
        "there is lost: to read or write it is an error, and stays one when the file grows. Only a "
        "whole copy of the file has it",
        ends, lost->count, lost->count == 1 ? " name leads" : " names lead", lost->first);
}

}  // namespace

Disk::Disk(ByteStore &store, const DiskOptions &options, Opened opened)
    : store_(store),
      options_(options),
      cluster_size_(opened.image->geometry().cluster_size()),
      can_flush_(store.can_flush()),
      what_is_missing_(missing_in(store, *opened.image)),
      image_(std::move(opened.image)),
      tracker_(std::move(opened.tracker)),
      why_read_only_(why_read_only_of(*image_, *tracker_)),
      outside_(std::make_unique<Live>(*this, true)),
      inside_(std::make_unique<Live>(*this, false)),
      backups_(*outside_)
{
}

Disk::~Disk() = default;

Result<Disk::Opened> Disk::open_with_bitmaps(ByteStore &store, const DiskOptions &options,
                                             std::optional<ImageFiles> files)
{
    const ChainPlace place{options.files, options.path, {options.identity}};
    auto image = TRY(open_image(store,
                                {options.cache_bytes, place, options.read_only,
                                 options.keep_clusters, options.snapshot, options.repaired_first},
                                std::move(files)));
    auto tracker = TRY(make_tracker(*image, store, options));
    if (!options.snapshot)
        TRY(tracker->open());
    return Opened{std::move(image), std::move(tracker)};
}

Result<std::unique_ptr<Tracker>> Disk::make_tracker(Image &image, const ByteStore &store,
                                                    const DiskOptions &options)
{
    return std::make_unique<Tracker>(image, TRY(bitmap_sync_of(store, options)), options.arming);
}

Result<std::unique_ptr<Disk>> Disk::open(ByteStore &store, const DiskOptions &options)
{
    Opened opened = TRY(open_with_bitmaps(store, options, {}));
    // A directory that cannot be read makes the disk read-only; that is told below.
    const BitmapRequest request = request_of(options);
    const auto directory = BitmapDirectory::load(*opened.image);
    if (directory && !options.read_only)
        TRY(check_request(request, *opened.image, *directory));
    std::unique_ptr<Disk> disk(new Disk(store, options, std::move(opened)));
    if (options.read_only)
        return disk;
    const bool recovers = options.recover_all_dirty &&
                          (!directory || asks_for_change(request, *disk->image_, *directory));
    const bool grows = disk->image_->disk_size() < options.size_min;
    if (disk->why_read_only_ && !options.bitmaps.empty())
        return Error(*disk->why_read_only_).in("bitmap= asks for a change");
    if (disk->why_read_only_ && recovers)
        return Error(*disk->why_read_only_).in("bitmap-recover=all-dirty asks for a change");
    if (disk->why_read_only_ && grows)
        return Error(*disk->why_read_only_).in("qcow2-resize= asks for a change");
    if (grows)
        TRY(disk->check_resize_alone(options.size_min).in("qcow2-resize="));
    return disk;
}

std::optional<Error> Disk::why_read_only_of(const Image &image, const Tracker &tracker) const
{
    if (image.why_read_only())
        return image.why_read_only();
    if (tracker.why_read_only() && !options_.mends_bitmaps)
        return tracker.why_read_only();
    if (options_.read_only)
        return Error(Errc::read_only, "the disk is served read-only");
    if (store_.read_only())
        return Error(Errc::read_only, "the file below cannot be written");
    return std::nullopt;
}

std::uint64_t Disk::size() const
{
    Passage passage(gate_);
    return image_ ? image_->disk_size() : 0;
}

std::optional<Error> Disk::why_read_only() const
{
    Passage passage(gate_);
    return broken_ ? broken_ : why_read_only_;
}

std::optional<Error> Disk::failed() const
{
    Passage passage(gate_);
    return broken_;
}

std::optional<Error> Disk::why_not_written() const
{
    Passage passage(gate_);
    const Result<void> state = image_ ? image_->state() : Result<void>();
    return state ? std::optional<Error>() : state.error();
}

bool Disk::failed_after_flush() const
{
    Passage passage(gate_);
    return flush_failed_;
}

std::vector<ReportLine> Disk::report(bool how_much) const
{
    Passage passage(gate_);
    if (!image_ || options_.snapshot)
        return {};
    const bool will_recover = options_.recover_all_dirty && !begun_ && !why_read_only_;
    std::vector<ReportLine> lines = report_bitmaps(*image_, how_much, will_recover);
    if (options_.size_min != 0 && options_.size_min < image_->disk_size())
        lines.push_back(
            {LogLevel::debug,
             formatted("the disk has {} bytes; qcow2-resize={} leaves a larger one as it is",
                       image_->disk_size(), options_.size_min)});
    return lines;
}

std::vector<std::string> Disk::announcements() const
{
    Passage passage(gate_);
    if (!image_ || why_read_only_)
        return {};
    const auto directory = BitmapDirectory::load(*image_);
    return directory ? qcow2::announcements(request_of(options_), *image_, *directory)
                     : std::vector<std::string>();
}

Result<void> Disk::begin_writing()
{
    Exclusive alone(gate_);
    TRY(readable());
    if (why_read_only_)
        return {};
    TRY(begin_alone());
    if (image_->disk_size() < options_.size_min)
        TRY(resize_alone(options_.size_min).in("qcow2-resize="));
    const BitmapRequest request = request_of(options_);
    const BitmapDirectory directory = TRY(BitmapDirectory::load(*image_));
    if (asks_for_change(request, *image_, directory))
        TRY(restructure_alone([&](Image &image) { return fulfil(request, image); }));
    TRY(take_back_alone());
    serving_ = true;
    make_room_for_bits();
    if (tracker_->tracks() && !can_flush_ && !options_.bitmap_sync)
        log_warning("the layer below cannot flush: bitmaps are true when the disk is idle and "
                    "after a clean stop only (bitmap-sync=on-close)");
    // All that was asked for is in the file. What could not be written of the rest
    // is kept, to be written later, unless a flush has failed (W5).
    return why_read_only_ ? Result<void>() : image_->state();
}

// W7: what is lost is put out of reach before the file grows.
Result<void> Disk::begin_alone()
{
    if (!begun_ && image_->counts_behind_end()) {
        TRY(image_->clear_unknown_bits());  // H4
        TRY(put_lost_names_out_of_reach(image_->store()).in("the end of the file is missing"));
        TRY(image_->reload_tables());
    }
    TRY(image_->begin_writing());
    begun_ = true;
    return {};
}

Result<void> Disk::settle()
{
    if (const auto why = failed(); why && why->code == Errc::shut_down)
        return {};
    const std::uint64_t begun = changes();
    TRY(settle_beforehand());
    if (changing() || changes() != begun)
        return {};
    Exclusive alone(gate_);
    TRY(readable());
    if (why_read_only_)
        return {};
    TRY(settle_alone());
    return take_back_alone();
}

// The long part of settle_alone(), while requests pass. What they change meanwhile is left.
Result<void> Disk::settle_beforehand()
{
    {
        Passage passage(gate_);
        TRY(readable());
        if (settled_ || why_read_only_)
            return {};
        TRY(image_->flush());
    }
    cool_beforehand({.all = true});
    return {};
}

// Who closes the gate waits for one step, and so do requests that come then.
Result<void> Disk::cool_bitmaps(Cooling cooling)
{
    for (bool is_more = true; is_more;) {
        Passage passage(gate_);
        TRY(readable());
        if (why_read_only_)
            return {};
        is_more = TRY(tracker_->cool(cooling));
    }
    return {};
}

// That it cannot be done now is no failure.
void Disk::cool_beforehand(Cooling cooling)
{
    if (const Result<void> cooled = cool_bitmaps(std::move(cooling)); !cooled)
        log_debug("bitmaps: {}", cooled.error().what);
}

Result<void> Disk::settle_alone(Bits bits)
{
    if (settled_ && !image_->growth_is_held())
        return {};
    TRY(image_->flush());
    TRY(bits == Bits::kept ? tracker_->store({}) : tracker_->store());  // on-close: no in_use
    TRY(image_->settle());
    settled_ = bits == Bits::read;
    return {};
}

// B7: what was given up for lack of room is valid again, all dirty, when there is
// room. That there is none yet is no failure.
Result<void> Disk::take_back_alone()
{
    if (why_read_only_ || !tracker_->gave_up())
        return {};
    if (!TRY(tracker_->has_room()))
        return image_->settle();
    TRY(settle_alone());
    Result<void> done = change_structure(recover_given_up);
    return done || done.error().code != Errc::no_space ? done : Result<void>();
}

Result<void> Disk::cool()
{
    backups_.frozen().tidy();
    TRY(cool_bitmaps({}));
    {
        Passage passage(gate_);
        TRY(readable());
        if (why_read_only_ || !tracker_->gave_up())
            return {};
    }
    Exclusive alone(gate_);
    TRY(readable());
    return take_back_alone();
}

Result<void> Disk::stop()
{
    end_all_backups();
    if (Result<void> settled = settle();
        !settled && !failed())  // the long part keeps nobody waiting
        return settled;
    Exclusive alone(gate_);
    if (broken_)
        return {};
    if (begun_ && !why_read_only_) {
        TRY(settle_alone());
        TRY(image_->cut());
    }
    broken_.emplace(Errc::shut_down, "the server is about to end");
    tracker_.reset();
    image_.reset();
    return {};
}

Result<void> Disk::close()
{
    end_all_backups();
    if (!begun_ || broken_)
        return {};
    TRY(settle());
    return why_read_only_ ? Result<void>() : image_->cut();
}

}  // namespace qcow2
