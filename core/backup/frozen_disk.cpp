// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/frozen_disk.h"

#include <algorithm>

#include "core/base/log.h"

namespace qcow2 {

namespace {

using From = Keepings::Source::From;

std::uint64_t end_of(Range range, std::uint64_t blocks)
{
    return std::min(range.end, (range.begin / block_bytes + blocks) * block_bytes);
}

}  // namespace

Result<void> FrozenDisk::check_range(std::uint64_t offset, std::uint64_t length) const
{
    if (!fits(offset, length, size_))
        return Error(Errc::invalid,
                     "the request begins at {:#x} and has {} bytes; the frozen disk ends at {:#x}",
                     offset, length, size_);
    return standing_->check();
}

// The last thing that is done is to look whether the frozen disk is still true: a change that
// overwrites what it could not keep says so first.
Result<void> FrozenDisk::read(GuestOffset offset, MutableBytes bytes)
{
    TRY(check_range(offset.value, bytes.size()));
    Range left = Range::of(offset.value, bytes.size());
    while (!left.empty())
        left.begin += TRY(read_some(left, sub(bytes, left.begin - offset.value, left.length())));
    TRY(standing_->check());
    bytes_read_.fetch_add(bytes.size(), std::memory_order_relaxed);
    return {};
}

// How many bytes from the beginning were read. None: what was read is not what it was any more,
// and where it is now the next try finds.
Result<std::uint64_t> FrozenDisk::read_some(Range range, MutableBytes bytes)
{
    const std::shared_ptr<const Keepings> keepings = keepings_.take();
    const auto [from, blocks, keeping] = keepings->source(*standing_, range.touched(block_bytes));
    range.end = end_of(range, blocks);
    bytes = sub(bytes, 0, range.length());
    switch (from) {
    case From::live: {
        Result<void> read = live_.read(GuestOffset(range.begin), bytes);
        const std::uint64_t good = still_live(range);
        if (!read && good == range.length())
            return std::move(read).error();
        return read ? good : 0;
    }
    case From::scratch: TRY(keeping->scratch->read(range.begin, bytes)); return range.length();
    case From::zeros: std::fill(bytes.begin(), bytes.end(), 0); return range.length();
    case From::unreadable:
        return Error(Errc::io, "what was at {:#x} could not be read when it was overwritten",
                     range.begin);
    case From::not_needed:
        return Error(Errc::io,
                     "what is at {:#x} is not part of backup {}: it was begun for what is dirty",
                     range.begin, quote(name()));
    case From::gone: break;
    }
    TRY(standing_->check());
    return Error(Errc::io, "backup {} has ended", quote(name()));
}

// How many bytes from the beginning were the live disk's to this moment.
std::uint64_t FrozenDisk::still_live(Range range) const
{
    return keepings_.ask([&](const Keepings &keepings) -> std::uint64_t {
        const auto [from, blocks, keeping] =
            keepings.source(*standing_, range.touched(block_bytes));
        return from == From::live ? end_of(range, blocks) - range.begin : 0;
    });
}

Result<std::vector<Extent>> FrozenDisk::status(std::uint64_t offset, std::uint64_t length)
{
    TRY(check_range(offset, length));
    auto extents =
        TRY(consecutive_extents(offset, length, [&](std::uint64_t from, std::uint64_t length_max) {
            return first_extent(Range::of(from, length_max));
        }));
    TRY(standing_->check());
    return extents;
}

// What has been kept meanwhile, so that there was none, the next look finds.
Result<Extent> FrozenDisk::first_extent(Range range)
{
    Extent extent;
    while (extent.length == 0)
        extent = TRY(status_of_some(range));
    return extent;
}

// As read_some().
Result<Extent> FrozenDisk::status_of_some(Range range)
{
    const auto [from, blocks, keeping] = keepings_.ask([&](const Keepings &keepings) {
        return keepings.source(*standing_, range.touched(block_bytes));
    });
    range.end = end_of(range, blocks);
    switch (from) {
    case From::live: {
        Result<Extent> extent = live_.status(range.begin, range.length());
        if (!extent && still_live(range) == range.length())
            return extent;
        if (!extent)
            return Extent{};
        extent->length = still_live(Range::of(range.begin, extent->length));
        return extent;
    }
    case From::zeros: return Extent{range.length(), true, true};
    case From::gone:
        TRY(standing_->check());
        return Error(Errc::io, "backup {} has ended", quote(name()));
    case From::scratch:
    case From::unreadable:
    case From::not_needed: break;
    }
    return Extent{range.length()};
}

std::uint64_t FrozenDisk::scratch_bytes() const
{
    const std::shared_ptr<const Keepings> keepings = keepings_.take();
    const Keeping *keeping = keepings->find(*standing_);
    return keeping ? keeping->scratch->bytes_used() : 0;
}

}  // namespace qcow2
