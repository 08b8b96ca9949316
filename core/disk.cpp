// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/disk.h"

#include <algorithm>

#include "core/bitmap/tracker.h"
#include "core/image/image.h"

namespace qcow2 {

namespace {

constexpr std::size_t extents_max = 1 << 14;

BitmapRequest request_of(const DiskOptions &options)
{
    return {options.bitmaps, options.bitmap_granularity_bits};
}

std::optional<Error> why_read_only_of(const ByteStore &store, const DiskOptions &options,
                                      const Image &image, const Tracker &tracker)
{
    if (image.why_read_only())
        return image.why_read_only();
    if (tracker.why_read_only())
        return tracker.why_read_only();
    if (options.read_only)
        return Error(Errc::read_only, "the disk is served read-only");
    if (store.read_only())
        return Error(Errc::read_only, "the file below cannot be written");
    return std::nullopt;
}

}  // namespace

Disk::Disk(ByteStore &store, const DiskOptions &options, std::unique_ptr<Image> image,
           std::unique_ptr<Tracker> tracker)
    : options_(options),
      why_read_only_(why_read_only_of(store, options, *image, *tracker)),
      can_flush_(store.can_flush()),
      image_(std::move(image)),
      tracker_(std::move(tracker))
{
}

Disk::~Disk() = default;

Result<std::unique_ptr<Disk>> Disk::open(ByteStore &store, const DiskOptions &options)
{
    const ChainPlace place{options.files, options.path, {options.identity}};
    auto image = TRY(Image::open(
        store, {options.cache_bytes, place, options.read_only, options.keep_clusters,
                options.snapshot}));
    auto tracker = std::make_unique<Tracker>(*image);
    if (!options.snapshot)
        TRY(tracker->open());
    if (!options.read_only)
        TRY(tracker->check(request_of(options)));
    std::unique_ptr<Disk> disk(new Disk(store, options, std::move(image), std::move(tracker)));
    if (disk->why_read_only_ && !options.read_only && !options.bitmaps.empty())
        return Error(*disk->why_read_only_).in("bitmap= asks for a change");
    return disk;
}

std::uint64_t Disk::size() const { return image_->disk_size(); }

std::uint64_t Disk::cluster_size() const { return image_->geometry().cluster_size(); }

std::vector<std::string> Disk::report() const { return tracker_->report(); }

Result<void> Disk::begin_writing()
{
    if (why_read_only_)
        return {};
    Exclusive alone(gate_);
    TRY(image_->begin_writing());
    const Result<void> made = tracker_->make(request_of(options_));
    begun_ = true;
    // Also what a failure has given back.
    const Result<void> settled = image_->settle();
    return made ? settled : made;
}

Result<void> Disk::read(GuestOffset offset, MutableBytes bytes)
{
    Passage passage(gate_);
    return image_->read(offset, bytes);
}

// Every change comes this way: first the bitmaps, then the image (B1, B6).
template <class Change>
Result<void> Disk::change(Range range, bool fua, Change change)
{
    if (why_read_only_)
        return *why_read_only_;
    if (range.empty())
        return {};
    INVARIANT(range.end <= size());
    changes_.fetch_add(1, std::memory_order_relaxed);
    Passage passage(gate_);
    if (settled_.load())
        settled_ = false;
    TRY(tracker_->before_change(range));
    TRY(change());
    if (fua)
        TRY(image_->flush());
    return {};
}

Result<void> Disk::write(GuestOffset offset, Bytes bytes, bool fua)
{
    return change(Range::of(offset.value, bytes.size()), fua,
                  [&] { return image_->write(offset, bytes); });
}

Result<void> Disk::zero(GuestOffset offset, std::uint64_t length, ZeroFlags flags)
{
    const Range range = Range::of(offset.value, length);
    if (flags.fast && !why_read_only_ && !range.empty()) {
        Passage passage(gate_);
        if (!TRY(image_->zero_is_fast(range, flags.may_unmap)))
            return Error(Errc::unsupported, "zeros would have to be written");
    }
    return change(range, flags.fua, [&] { return image_->zero(range, flags.may_unmap); });
}

Result<void> Disk::trim(GuestOffset offset, std::uint64_t length, bool fua)
{
    const Range range = Range::of(offset.value, length);
    return change(range, fua, [&] { return image_->trim(range); });
}

Result<void> Disk::flush()
{
    if (why_read_only_)
        return {};
    Passage passage(gate_);
    return image_->flush();
}

Result<void> Disk::cache(GuestOffset offset, std::uint64_t length)
{
    Passage passage(gate_);
    return image_->look_up(Range::of(offset.value, length));
}

Result<std::vector<Extent>> Disk::block_status(GuestOffset offset, std::uint64_t length)
{
    Passage passage(gate_);
    std::vector<Extent> extents;
    while (length != 0 && extents.size() < extents_max) {
        const Extent extent = TRY(image_->status(offset.value, length));
        if (!extents.empty() && extents.back().same_kind(extent))
            extents.back().length += extent.length;
        else
            extents.push_back(extent);
        offset += extent.length;
        length -= extent.length;
    }
    return extents;
}

Result<void> Disk::settle()
{
    if (why_read_only_)
        return {};
    Exclusive alone(gate_);
    if (settled_)
        return {};
    TRY(image_->flush());
    TRY(tracker_->store());
    TRY(image_->settle());
    settled_ = true;
    return {};
}

Result<void> Disk::close()
{
    if (!begun_)
        return {};
    TRY(settle());
    return image_->cut();
}

}  // namespace qcow2
