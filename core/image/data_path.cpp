// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/data_path.h"

#include <algorithm>
#include <cstring>

#include "core/base/log.h"
#include "core/base/rare.h"

namespace qcow2 {

DataPath::DataPath(ByteStore &store, std::unique_ptr<GuestClusters> clusters, Mapping &mapping,
                   const Header &header, std::uint64_t disk_size)
    : clusters_(std::move(clusters)),
      data_(clusters_->bytes()),
      mapping_(mapping),
      geometry_(header.geometry()),
      disk_size_(disk_size),
      raw_data_file_(header.autoclear_features & autoclear::raw_external_data),
      compressed_(store, CompressionType(header.compression_type), geometry_.cluster_size())
{
}

// Whether all bytes from this offset on that are mapped so read as zeros: past
// the end of a backing file, too.
bool DataPath::reads_as_zeros(const ClusterMapping &mapping, std::uint64_t offset) const
{
    if (std::holds_alternative<Unallocated>(mapping))
        return !backing_ || offset >= backing_->size();
    return std::holds_alternative<Zero>(mapping);
}

// How many of the run's first bytes read as zeros, as far as that is known without
// reading them: a backing file has holes and zero clusters, too.
Result<std::uint64_t> DataPath::zeros_of(const MappedRun &run, std::uint64_t offset) const
{
    if (reads_as_zeros(run.mapping, offset))
        return run.length;
    if (!std::holds_alternative<Unallocated>(run.mapping))
        return std::uint64_t(0);
    const Extent shown =
        TRY(backing_->status(offset, std::min(run.length, backing_->size() - offset)));
    return shown.zero ? shown.length : 0;
}

Result<void> DataPath::read_backing(std::uint64_t offset, MutableBytes bytes)
{
    const std::uint64_t there =
        offset < backing_->size() ? std::min<std::uint64_t>(bytes.size(), backing_->size() - offset)
                                  : 0;
    std::memset(bytes.data() + there, 0, bytes.size() - there);
    return there == 0 ? Result<void>() : backing_->read(offset, sub(bytes, 0, there));
}

Result<void> DataPath::read(GuestOffset offset, MutableBytes bytes)
{
    while (!bytes.empty()) {
        Passage reading(readers_);
        const MappedRun run = TRY(mapping_.map(offset, bytes.size()));
        TRY(read_run(run, offset, sub(bytes, 0, run.length)));
        offset += run.length;
        bytes = bytes.subspan(run.length);
    }
    return {};
}

// The run begins at the offset and is as long as the bytes.
Result<void> DataPath::read_run(const MappedRun &run, GuestOffset offset, MutableBytes bytes)
{
    const std::uint64_t in_cluster = geometry_.in_cluster(offset);
    if (const auto *data = std::get_if<Data>(&run.mapping))
        return data_.read(data->host.value + in_cluster, bytes);
    if (const auto *compressed = std::get_if<Compressed>(&run.mapping)) {
        const auto cluster =
            TRY(compressed_.get(*compressed).in("guest offset {:#x}", offset.value));
        std::copy_n(cluster->begin() + in_cluster, bytes.size(), bytes.begin());
        return {};
    }
    if (!reads_as_zeros(run.mapping, offset.value))
        return read_backing(offset.value, bytes);
    std::memset(bytes.data(), 0, bytes.size());
    return {};
}

Result<Extent> DataPath::status(GuestOffset offset, std::uint64_t length_max)
{
    const MappedRun run = TRY(mapping_.map(offset, length_max));
    if (std::holds_alternative<Unallocated>(run.mapping) && backing_ &&
        offset.value < backing_->size())
        return backing_->status(offset.value,
                                std::min(run.length, backing_->size() - offset.value));
    if (const auto *data = std::get_if<Data>(&run.mapping)) {
        const ByteStore::Stretch stretch =
            clusters_->stretch(data->host.value + geometry_.in_cluster(offset), run.length);
        return Extent{stretch.length, stretch.hole, stretch.hole};
    }
    const auto *zero = std::get_if<Zero>(&run.mapping);
    const bool hole =
        zero ? !zero->has_cluster() : std::holds_alternative<Unallocated>(run.mapping);
    return Extent{run.length, hole, hole || zero};
}

Result<void> DataPath::look_up(Range range)
{
    while (!range.empty())
        range.begin += TRY(mapping_.map(GuestOffset(range.begin), range.length())).length;
    return {};
}

Result<void> DataPath::write(GuestOffset offset, Bytes bytes)
{
    while (!bytes.empty()) {
        std::uint64_t written = TRY(write_in_place(offset, bytes));
        if (written == 0)
            written = TRY(write_new(offset, bytes));
        offset += written;
        bytes = bytes.subspan(written);
    }
    return {};
}

Result<bool> DataPath::overwrite(GuestOffset offset, Bytes bytes)
{
    while (!bytes.empty()) {
        const std::uint64_t written = TRY(write_in_place(offset, bytes));
        if (written == 0)
            return false;
        offset += written;
        bytes = bytes.subspan(written);
    }
    return true;
}

bool DataPath::may_write_in_place(const ClusterMapping &mapping) const
{
    const auto *data = std::get_if<Data>(&mapping);
    return data && data->copied;
}

// Writes the first bytes where they are; returns how many, 0 if that may not
// be.
Result<std::uint64_t> DataPath::write_in_place(GuestOffset offset, Bytes bytes)
{
    Passage writing(readers_);
    const MappedRun run = TRY(mapping_.map(offset, bytes.size()));
    if (!may_write_in_place(run.mapping))
        return std::uint64_t(0);
    const std::uint64_t in_cluster = geometry_.in_cluster(offset);
    const HostOffset host = std::get<Data>(run.mapping).host + in_cluster;
    TRY(mapping_.check_own(run.mapping, geometry_.clusters_for(in_cluster + run.length), offset));
    TRY(clusters_->reach(host.value + run.length));
    TRY(data_.write(host.value, sub(bytes, 0, run.length)));
    return run.length;
}

// Writes the first bytes into clusters that are new, or were kept for this;
// returns how many, 0 if somebody else was faster.
Result<std::uint64_t> DataPath::write_new(GuestOffset offset, Bytes bytes)
{
    const Range clusters = Range::of(offset.value, bytes.size()).touched(geometry_.cluster_size());
    RangeLock::Guard guard(in_flight_, clusters);
    return write_new_locked(offset, bytes);
}

Result<std::uint64_t> DataPath::write_new_locked(GuestOffset offset, Bytes bytes)
{
    MappedRun run = TRY(mapping_.map(offset, bytes.size()));
    if (may_write_in_place(run.mapping))
        return std::uint64_t(0);

    const GuestCluster first = geometry_.cluster_of(offset);
    const std::uint64_t in_cluster = geometry_.in_cluster(offset);
    const auto *zero = std::get_if<Zero>(&run.mapping);
    const bool kept = zero && zero->has_cluster() && zero->copied;
    if (geometry_.extended_l2) {
        if (in_cluster != 0 || run.length < geometry_.cluster_size() || kept)
            return write_parts(offset, bytes);
        run.length = align_down(run.length, geometry_.cluster_size());
    }
    const std::uint64_t count =
        std::min(geometry_.clusters_for(in_cluster + run.length),
                 geometry_.l2_entries() - geometry_.l2_index(first));  // one L2 table
    // What is written to, or let go of when the new clusters are named.
    TRY(mapping_.check_own(run.mapping, count, offset));
    Allocator::Taken target;
    if (kept) {
        target.run = {geometry_.cluster_of(zero->host), count};
        TRY(clusters_->reach(geometry_.offset_of(target.run.end()).value));
    } else {
        target = TRY(clusters_->take(first, count));
    }

    const std::uint64_t length =
        std::min(run.length, target.run.count * geometry_.cluster_size() - in_cluster);
    Result<void> result = fill(target, offset, sub(bytes, 0, length), run.mapping);
    if (result)
        result = mapping_.make_table(first);
    if (!result) {
        if (!kept)
            clusters_->give_back(target.run);
        return std::move(result).error();
    }
    TRY(name(first, target.run));
    return length;
}

Result<void> DataPath::place_write(Range range)
{
    while (!range.empty()) {
        const GuestOffset offset(range.begin);
        const MappedRun run = TRY(mapping_.map(offset, range.length()));
        std::uint64_t length = run.length;
        if (may_write_in_place(run.mapping)) {
            const HostOffset host = std::get<Data>(run.mapping).host + geometry_.in_cluster(offset);
            TRY(clusters_->reach(host.value + length));
        } else {
            TRY(place_cluster(geometry_.cluster_of(offset)));
            length = std::min(length, geometry_.cluster_size() - geometry_.in_cluster(offset));
        }
        range.begin += length;
    }
    return {};
}

// Its bytes are written anew where they may not be written in place: nobody else
// writes them meanwhile, for that takes the lock.
Result<void> DataPath::place_cluster(GuestCluster cluster)
{
    RangeLock::Guard guard(in_flight_, Range::of(cluster.value, 1));
    const std::uint64_t begin = geometry_.offset_of(cluster).value;
    const std::uint64_t end = std::min(begin + geometry_.cluster_size(), disk_size_);
    Buffer bytes;
    for (std::uint64_t at = begin; at < end;) {
        const MappedRun run = TRY(mapping_.map(GuestOffset(at), end - at));
        if (may_write_in_place(run.mapping)) {
            at += run.length;
            continue;
        }
        bytes.resize(run.length);
        TRY(read(GuestOffset(at), bytes));
        at += TRY(write_new_locked(GuestOffset(at), bytes));
    }
    return {};
}

// W2: all that the mapping will make readable is written before it is changed.
// Where the payload leaves room the guest still sees what it saw before: old is
// the mapping of the first cluster, and of those behind it.
Result<void> DataPath::fill(const Allocator::Taken &target, GuestOffset offset, Bytes payload,
                            const ClusterMapping &old)
{
    const std::uint64_t cluster_size = geometry_.cluster_size();
    const std::uint64_t in_cluster = geometry_.in_cluster(offset);
    const HostOffset host = geometry_.offset_of(target.run.first);
    // What is there before the payload reads as the cluster's beginning does.
    if (target.fresh && reads_as_zeros(old, align_down(offset.value, cluster_size)))
        return data_.write(host.value + in_cluster, payload);

    // Cluster by cluster where there is padding, the whole middle at once.
    Buffer padded;
    std::uint64_t done = 0;  // of the payload
    for (std::uint64_t at = 0; at < target.run.count * cluster_size;) {
        const std::uint64_t begin = at == 0 ? in_cluster : 0;
        const std::uint64_t left = payload.size() - done;
        if (begin == 0 && left >= cluster_size) {
            const std::uint64_t whole = align_down(left, cluster_size);
            TRY(data_.write(host.value + at, sub(payload, done, whole)));
            done += whole;
            at += whole;
            continue;
        }
        padded.resize(cluster_size);
        MappedRun was{old, cluster_size};
        if (auto *data = std::get_if<Data>(&was.mapping))
            data->host += at;
        const GuestOffset cluster = geometry_.offset_of(geometry_.cluster_of(offset)) + at;
        TRY(read_run(was, cluster, padded).in("copy-on-write"));
        const std::uint64_t length = std::min(left, cluster_size - begin);
        std::copy_n(payload.begin() + done, length, padded.begin() + begin);
        TRY(clusters_->write_clusters(host.value + at, padded));
        done += length;
        at += cluster_size;
    }
    return {};
}

// Maps guest clusters from `first` on to this run.
Result<void> DataPath::name(GuestCluster first, HostRun run)
{
    const auto to_run = [&](GuestCluster cluster, const ClusterMapping &) -> ClusterMapping {
        return Data{geometry_.offset_of(run.first + (cluster - first)), true};
    };
    std::uint64_t done = 0;
    while (done < run.count) {
        const auto named = mapping_.update(first + done, run.count - done, to_run);
        if (!named) {
            // The rest leaks: it may be a kept cluster that has a name.
            RARE("clusters leak whose names could not be changed");
            log_warning("clusters at {:#x} may have leaked: {}",
                        geometry_.offset_of(run.first + done).value, named.error().what);
            return named.error();
        }
        done += *named;
    }
    return {};
}

}  // namespace qcow2
