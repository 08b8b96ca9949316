// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// DataPath: zeroing and trimming. What covers whole clusters (or subclusters) is a change of
// the mapping; the rest, at both ends, is written as zeros, or left by a trim.

#include <algorithm>

#include "core/base/log.h"
#include "core/image/data_path.h"

namespace qcow2 {

// Whole clusters (or subclusters) inside the range, in bytes; what lies behind
// the end of the disk does not keep the last one from being whole.
Range DataPath::whole_parts(Range range) const
{
    const std::uint64_t part_size = geometry_.part_size();
    if (range.end == disk_size_)
        range.end = geometry_.clusters_for(disk_size_) * geometry_.cluster_size();
    const Range parts = range.whole(part_size);
    // Subclusters that lie behind the end are no part of the disk.
    if (parts.begin * part_size >= disk_size_)
        return {};
    return {parts.begin * part_size, parts.end * part_size};
}

Result<void> DataPath::zero_bytes(Range range)
{
    static const Buffer zeros(256 << 10);
    while (!range.empty()) {
        const MappedRun run = TRY(mapping_.map(GuestOffset(range.begin), range.length()));
        const std::uint64_t there = TRY(zeros_of(run, range.begin));
        if (there != 0) {
            range.begin += there;
            continue;
        }
        const Range part = Range::of(range.begin, run.length);
        // Pieces end where sectors do: a crash must find each sector old or new.
        for (std::uint64_t at = part.begin, end; at < part.end; at = end) {
            end = std::min(part.end, align_down(at, zeros.size()) + zeros.size());
            TRY(write(GuestOffset(at), sub(Bytes(zeros), 0, end - at)));
        }
        range.begin += run.length;
    }
    return {};
}

// What zero_bytes() will overwrite.
Result<void> DataPath::place_zeros(Range range)
{
    while (!range.empty()) {
        const MappedRun run = TRY(mapping_.map(GuestOffset(range.begin), range.length()));
        if (!reads_as_zeros(run.mapping, range.begin))
            TRY(place_write(Range::of(range.begin, run.length)));
        range.begin += run.length;
    }
    return {};
}

// Of the cluster (or subcluster) here a part is zeroed. Where nothing is mapped, and
// all of it reads as zeros from the backing file, it is named as zeros: so it takes
// no room, and later writes need not look there. A write to the rest of it that comes
// meanwhile maps it, and then it is left alone.
Result<void> DataPath::name_zeros(std::uint64_t offset)
{
    const Range part = Range::of(align_down(offset, geometry_.part_size()), geometry_.part_size());
    for (Range left{part.begin, std::min(part.end, disk_size_)}; !left.empty();) {
        const MappedRun run = TRY(mapping_.map(GuestOffset(left.begin), left.length()));
        const std::uint64_t zeros = TRY(zeros_of(run, left.begin));
        if (zeros == 0 || !std::holds_alternative<Unallocated>(run.mapping))
            return {};
        left.begin += zeros;
    }
    if (geometry_.extended_l2)
        return change_parts(part, Step::change, PartChange::name_zeros);
    return change_clusters(part, Step::change, [](GuestCluster, const ClusterMapping &was) {
        return std::holds_alternative<Unallocated>(was) ? ClusterMapping(Zero{}) : was;
    });
}

// A raw data file must say itself that there are zeros. Where the bytes are they
// are overwritten by zeros, which may be a hole; the mapping stays.
Result<void> DataPath::zero_raw(Range range, bool may_unmap)
{
    while (!range.empty()) {
        const std::uint64_t zeroed = TRY(zero_in_place(range, may_unmap));
        if (zeroed != 0) {
            range.begin += zeroed;
            continue;
        }
        const std::uint64_t length =
            TRY(mapping_.map(GuestOffset(range.begin), range.length())).length;
        TRY(zero_bytes(Range::of(range.begin, length)));
        range.begin += length;
    }
    return {};
}

// The first bytes, where they are; returns how many, 0 if that may not be.
Result<std::uint64_t> DataPath::zero_in_place(Range range, bool may_unmap)
{
    Passage writing(readers_);
    const GuestOffset offset(range.begin);
    const MappedRun run = TRY(mapping_.map(offset, range.length()));
    if (!may_write_in_place(run.mapping))
        return std::uint64_t(0);
    const std::uint64_t host =
        std::get<Data>(run.mapping).host.value + geometry_.in_cluster(offset);
    const std::uint64_t size = data_.size();
    if (host >= size)  // a file that is too short reads as zeros there
        return run.length;
    // Holes stay holes, unless the client wants none.
    const ByteStore::Stretch stretch = clusters_->stretch(host, std::min(run.length, size - host));
    if (!stretch.hole || !(may_unmap || keep_clusters_))
        TRY(data_.zero(host, stretch.length, may_unmap));
    return stretch.length;
}

// What is trimmed, or zeroed, takes no room in a data file. It goes while the
// clusters still have their names, like an overwrite: each has its place for
// ever, so afterwards a hole could meet what the guest writes there next. A data
// file is a local file: what is discarded reads as zeros, or as before.
Result<void> DataPath::discard_in_places(Range range)
{
    if (!clusters_->have_places())
        return {};
    range.end = std::min(range.end, disk_size_);
    while (!range.empty()) {
        Passage writing(readers_);
        const MappedRun run = TRY(mapping_.map(GuestOffset(range.begin), range.length()));
        const std::uint64_t size = data_.size();
        // (Only at its own place: an image that lies may name one twice.)
        if (may_write_in_place(run.mapping) && range.begin < size &&
            std::get<Data>(run.mapping).host.value ==
                align_down(range.begin, geometry_.cluster_size())) {
            const auto discarded =
                data_.discard(range.begin, std::min(run.length, size - range.begin));
            if (!discarded)
                log_debug("external data file: {}", discarded.error().what);
        }
        range.begin += run.length;
    }
    return {};
}

// range: bytes, whole clusters.
Result<void> DataPath::change_clusters(Range range, Step step, const Mapping::Change &change)
{
    Range clusters = range.touched(geometry_.cluster_size());
    while (!clusters.empty()) {
        // One L2 table at a time.
        const GuestCluster first(clusters.begin);
        const std::uint64_t in_table = geometry_.l2_entries() - geometry_.l2_index(first);
        const Range part = Range::of(first.value, std::min(in_table, clusters.length()));
        // Nothing is mapped there, so nothing is hidden and nothing freed.
        if (!backing_ && !mapping_.has_table(first)) {
            clusters.begin = part.end;
            continue;
        }
        RangeLock::Guard guard(in_flight_, part);
        GuestCluster at = first;
        while (at.value < part.end) {
            const std::uint64_t bytes = (part.end - at.value) * geometry_.cluster_size();
            const MappedRun run = TRY(mapping_.map(geometry_.offset_of(at), bytes));
            const std::uint64_t count = geometry_.clusters_for(run.length);
            if (change(at, run.mapping) == run.mapping) {
                at += count;
                continue;
            }
            TRY(mapping_.make_table(at));
            at += step == Step::place ? count : TRY(mapping_.update(at, count, change));
        }
        clusters.begin = part.end;
    }
    return {};
}

// What a whole cluster becomes that is to read as zeros.
ClusterMapping DataPath::zeroed(const ClusterMapping &was, bool may_unmap) const
{
    if (geometry_.version < 3)
        return Unallocated{};
    if (std::holds_alternative<Unallocated>(was))
        return backing_ ? ClusterMapping(Zero{}) : was;
    if (may_unmap)
        return Zero{};
    if (const auto *zero = std::get_if<Zero>(&was))
        return *zero;
    const auto *data = std::get_if<Data>(&was);
    return data && data->copied ? Zero{data->host, true} : Zero{};
}

// Version 2 has no zero flag: zeros are where nothing is, unless a backing file
// shows through there. A raw data file must say it too.
bool DataPath::must_write_zeros(bool may_unmap) const
{
    return raw_data_file_ || (geometry_.version < 3 && (!may_unmap || backing_));
}

// Whole clusters (or subclusters) that are to read as zeros.
Result<void> DataPath::zero_parts(Range whole, Step step, bool may_unmap)
{
    if (geometry_.extended_l2)
        return change_parts(whole, step, may_unmap ? PartChange::zero : PartChange::zero_and_keep);
    return change_clusters(whole, step, [&](GuestCluster, const ClusterMapping &was) {
        return zeroed(was, may_unmap);
    });
}

Result<void> DataPath::zero(Range range, bool may_unmap)
{
    may_unmap &= !keep_clusters_;
    const Range whole = whole_parts(range);
    if (raw_data_file_)
        return zero_raw(range, may_unmap);
    if (backing_ && !must_write_zeros(may_unmap))
        for (const std::uint64_t at : {range.begin, range.end - 1})
            if (!whole.contains(Range::of(at, 1))) {
                // Without room for a table it stays as it is, and reads the same.
                Result<void> named = name_zeros(at);
                if (!named && named.error().code != Errc::no_space)
                    return named;
            }
    if (whole.empty() || must_write_zeros(may_unmap))
        return zero_bytes(range);
    TRY(zero_bytes({range.begin, whole.begin}));
    if (may_unmap)
        TRY(discard_in_places(whole));
    TRY(zero_parts(whole, Step::change, may_unmap));
    return zero_bytes({whole.end, range.end});
}

Result<void> DataPath::place_zero(Range range, bool may_unmap)
{
    may_unmap &= !keep_clusters_;
    const Range whole = whole_parts(range);
    if (whole.empty() || must_write_zeros(may_unmap))
        return place_zeros(range);
    TRY(place_zeros({range.begin, whole.begin}));
    TRY(zero_parts(whole, Step::place, may_unmap));
    return place_zeros({whole.end, range.end});
}

Result<bool> DataPath::zero_is_fast(Range range, bool may_unmap)
{
    const auto nothing_to_write = [&](Range part) -> Result<bool> {
        while (!part.empty()) {
            const MappedRun run = TRY(mapping_.map(GuestOffset(part.begin), part.length()));
            const std::uint64_t zeros = TRY(zeros_of(run, part.begin));
            if (zeros == 0)
                return false;
            part.begin += zeros;
        }
        return true;
    };
    may_unmap &= !keep_clusters_;
    const Range whole = whole_parts(range);
    if (whole.empty() || must_write_zeros(may_unmap))
        return nothing_to_write(range);
    if (geometry_.extended_l2 && TRY(parts_of_compressed(whole)))
        return false;
    return TRY(nothing_to_write({range.begin, whole.begin})) &&
           TRY(nothing_to_write({whole.end, range.end}));
}

// What a whole cluster becomes that the guest does not need. The backing file
// must not show where the guest's own bytes were; where nothing was of its own,
// it shows as before.
ClusterMapping DataPath::trimmed(const ClusterMapping &was) const
{
    if (std::holds_alternative<Unallocated>(was))
        return was;
    if (backing_ || std::holds_alternative<Zero>(was))
        return Zero{};
    return Unallocated{};
}

Result<void> DataPath::trim_parts(Range whole, Step step)
{
    if (geometry_.extended_l2)
        return change_parts(whole, step, PartChange::trim);
    return change_clusters(
        whole, step, [this](GuestCluster, const ClusterMapping &was) { return trimmed(was); });
}

Result<void> DataPath::trim(Range range)
{
    const Range whole = whole_parts(range);
    if (raw_data_file_)
        return zero_raw(range, !keep_clusters_);
    if (keep_clusters_)  // without a zero flag there is nothing to gain
        return geometry_.version < 3 || whole.empty()
                   ? Result<void>()
                   : zero({whole.begin, std::min(whole.end, disk_size_)}, false);
    if (whole.empty() || (backing_ && geometry_.version < 3))
        return {};
    TRY(discard_in_places(whole));
    return trim_parts(whole, Step::change);
}

Result<void> DataPath::place_trim(Range range)
{
    const Range whole = whole_parts(range);
    if (raw_data_file_)
        return place_zeros(range);
    if (keep_clusters_)
        return geometry_.version < 3 || whole.empty()
                   ? Result<void>()
                   : place_zero({whole.begin, std::min(whole.end, disk_size_)}, false);
    if (whole.empty() || (backing_ && geometry_.version < 3))
        return {};
    return trim_parts(whole, Step::place);
}

}  // namespace qcow2
