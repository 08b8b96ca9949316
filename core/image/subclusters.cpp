// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The data path of images with extended L2 entries: a small write makes the
// subclusters that it touches, and the rest of the cluster is not copied.

#include <bit>

#include "core/image/data_path.h"

namespace qcow2 {

namespace {

constexpr std::uint32_t all_parts = ~std::uint32_t(0);

// Bits [begin, end) of 32.
std::uint32_t mask_of(Range parts)
{
    return parts.empty() ? 0 : all_parts >> (32 - parts.length()) << parts.begin;
}

// The bytes of the cluster that must be written so that all of `allocated` may
// be read there, if `payload` is what the guest writes.
Range bytes_to_write(const Subclusters &old, Range payload, std::uint32_t allocated, bool own,
                     std::uint64_t part_size)
{
    const Range parts = payload.touched(part_size);
    if (!own)  // all that the old cluster had comes along
        return {std::countr_zero(allocated) * part_size,
                (32 - std::countl_zero(allocated)) * part_size};
    // Parts that are touched, but not wholly written, and new.
    Range bytes = payload;
    if (!(old.allocated >> parts.begin & 1))
        bytes.begin = parts.begin * part_size;
    if (!(old.allocated >> (parts.end - 1) & 1))
        bytes.end = parts.end * part_size;
    return bytes;
}

}  // namespace

// Writes the first bytes into one cluster, which the caller holds in the range
// lock; returns how many.
Result<std::uint64_t> DataPath::write_parts(GuestOffset offset, Bytes bytes)
{
    const GuestCluster cluster = geometry_.cluster_of(offset);
    const std::uint64_t begin = geometry_.in_cluster(offset);
    const Bytes payload =
        sub(bytes, 0, std::min<std::uint64_t>(bytes.size(), geometry_.cluster_size() - begin));
    const Range written = Range::of(begin, payload.size());

    const ClusterMapping was = TRY(mapping_.cluster(cluster));
    const auto *parts = std::get_if<Subclusters>(&was);
    const Subclusters old = parts ? *parts : Subclusters{};
    const bool own = old.has_cluster() && old.copied;
    const std::uint32_t touched = mask_of(written.touched(geometry_.part_size()));
    // A compressed cluster has no parts: all of it is written.
    const std::uint32_t allocated = parts ? old.allocated | touched : all_parts;

    TRY(mapping_.check_own(was, 1, offset));
    Allocator::Taken target{{geometry_.cluster_of(old.host), 1}, false};
    if (own)
        TRY(clusters_->reach(geometry_.offset_of(target.run.end()).value));
    else
        target = TRY(clusters_->take(cluster, 1));
    const HostOffset host = geometry_.offset_of(target.run.first);

    // W2: around the payload the guest sees what it saw before.
    const auto fill_parts = [&]() -> Result<void> {
        const Range span = bytes_to_write(old, written, allocated, own, geometry_.part_size());
        if (span == written)
            return clusters_->write_clusters(host.value + span.begin, payload);
        Buffer content(span.length());
        const MutableBytes all(content);
        const GuestOffset base = geometry_.offset_of(cluster);
        TRY(read(base + span.begin, sub(all, 0, begin - span.begin)).in("copy-on-write"));
        std::copy(payload.begin(), payload.end(), content.begin() + (begin - span.begin));
        TRY(read(base + written.end, sub(all, written.end - span.begin, span.end - written.end))
                .in("copy-on-write"));
        return clusters_->write_clusters(host.value + span.begin, content);
    };
    Result<void> result = fill_parts();
    if (result)
        result = mapping_.make_table(cluster);
    if (result) {
        const Subclusters is{host, true, allocated, old.zero & ~allocated};
        auto updated = mapping_.update(
            cluster, 1, [&](GuestCluster, const ClusterMapping &) -> ClusterMapping { return is; });
        if (!updated)
            result = std::move(updated).error();
    }
    if (!result) {
        if (!own)
            clusters_->give_back(target.run);
        return std::move(result).error();
    }
    return payload.size();
}

Subclusters DataPath::changed_parts(const ClusterMapping &was, std::uint32_t mask,
                                    PartChange change) const
{
    const auto *parts = std::get_if<Subclusters>(&was);
    Subclusters is = parts ? *parts : Subclusters{HostOffset(), false, all_parts, 0};
    if (change == PartChange::name_zeros) {
        is.zero |= mask & ~is.allocated;
        return is;
    }
    const std::uint32_t own = (is.allocated | is.zero) & mask;
    is.allocated &= ~mask;
    is.zero &= ~mask;
    if (change == PartChange::trim)
        is.zero |= backing_ ? own : 0;
    else
        is.zero |= backing_ ? mask : own;
    if (is.allocated == 0 && change != PartChange::zero_and_keep) {
        is.host = HostOffset();
        is.copied = false;
    }
    return is;
}

// Whether the first or the last cluster of these whole subclusters is compressed
// and has others besides: then it has to be written. range: bytes, not empty.
Result<bool> DataPath::parts_of_compressed(Range range)
{
    for (const std::uint64_t at : {range.begin, range.end - 1}) {
        const GuestCluster cluster = geometry_.cluster_of(GuestOffset(at));
        const Range whole = Range::of(geometry_.offset_of(cluster).value, geometry_.cluster_size());
        if (!range.contains(whole) &&
            std::holds_alternative<Compressed>(TRY(mapping_.cluster(cluster))))
            return true;
    }
    return false;
}

// range: bytes, whole subclusters.
Result<void> DataPath::change_parts(Range range, Step step, PartChange change)
{
    while (!range.empty()) {
        const GuestCluster cluster = geometry_.cluster_of(GuestOffset(range.begin));
        const std::uint64_t base = geometry_.offset_of(cluster).value;
        if (!backing_ && !mapping_.has_table(cluster)) {
            range.begin = align_down(range.begin, geometry_.l2_reach()) + geometry_.l2_reach();
            continue;
        }
        const Range part = intersection(range, Range::of(base, geometry_.cluster_size()));
        range.begin = part.end;
        const Range parts{(part.begin - base) / geometry_.part_size(),
                          (part.end - base) / geometry_.part_size()};
        const std::uint32_t mask = mask_of(parts);
        {
            RangeLock::Guard guard(in_flight_, Range::of(cluster.value, 1));
            const ClusterMapping was = TRY(mapping_.cluster(cluster));
            if (mask == all_parts || std::holds_alternative<Subclusters>(was)) {
                if (was == ClusterMapping(changed_parts(was, mask, change)))
                    continue;
                TRY(mapping_.make_table(cluster));
                if (step == Step::place)
                    continue;
                TRY(mapping_.update(cluster, 1,
                                    [&](GuestCluster, const ClusterMapping &raw) -> ClusterMapping {
                                        return changed_parts(raw, mask, change);
                                    }));
                continue;
            }
        }
        // A part of a compressed cluster.
        const Range bytes{part.begin, std::min(part.end, disk_size_)};
        if (change != PartChange::trim)
            TRY(step == Step::place ? place_zeros(bytes) : zero_bytes(bytes));
    }
    return {};
}

}  // namespace qcow2
