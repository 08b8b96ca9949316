// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// DataPath: moves the guest's bytes. It loops over runs of the mapping; what
// may be read or overwritten in place takes one call below per run and no
// exclusive lock. Only clusters that must be made, copied or freed are held in a
// range lock.
//
// Rules kept here: W1 (a cluster comes from Allocator::take(), counted), W2
// (the bytes are written before the mapping is changed; a fresh cluster gets
// the payload alone), W3 (reading and overwriting happen inside the readers'
// gate, which Image::flush() drains before it frees clusters).
//
// Ranges lie inside the disk. Any thread.

#pragma once

#include <memory>
#include <vector>

#include "core/base/gate.h"
#include "core/base/range.h"
#include "core/base/range_lock.h"
#include "core/image/backing.h"
#include "core/image/compressed_clusters.h"
#include "core/image/guest_clusters.h"
#include "core/image/mapping.h"

namespace qcow2 {

class DataPath {
public:
    // store: of the image, where compressed clusters are.
    DataPath(ByteStore &store, std::unique_ptr<GuestClusters> clusters, Mapping &mapping,
             const Header &header, std::uint64_t disk_size);

    // Once, before use: what unallocated clusters show; nullptr: zeros.
    void set_backing(std::shared_ptr<Backing> backing) { backing_ = std::move(backing); }
    // After use.
    std::shared_ptr<Backing> release_backing() { return std::move(backing_); }

    const std::shared_ptr<Backing> &backing() const { return backing_; }
    std::uint64_t backing_size() const { return backing_ ? backing_->size() : 0; }

    // Once, before use: trim and zero leave what is allocated allocated.
    void keep_clusters() { keep_clusters_ = true; }

    Result<void> read(GuestOffset offset, MutableBytes bytes);
    Result<void> write(GuestOffset offset, Bytes bytes);
    // The same where no cluster has to be made for it. False: somewhere one has to be; some of
    // the bytes may have been written.
    Result<bool> overwrite(GuestOffset offset, Bytes bytes);
    // may_unmap false: what has a cluster keeps one.
    Result<void> zero(Range range, bool may_unmap);
    // Whole clusters inside the range lose their content; the rest stays.
    Result<void> trim(Range range);
    // What such a change needs room for is there when these return, and the disk
    // shows what it showed: so nothing of it has happened yet. no_space.
    Result<void> place_write(Range range);
    Result<void> place_zero(Range range, bool may_unmap);
    Result<void> place_trim(Range range);
    // Whether zero() would write no guest bytes.
    Result<bool> zero_is_fast(Range range, bool may_unmap);
    // Brings the mapping of the range into memory.
    Result<void> look_up(Range range);
    // The first extent from the offset on, at most length_max (not 0) long.
    Result<Extent> status(GuestOffset offset, std::uint64_t length_max);

    // Returns when everybody who read or wrote by a mapping older than this
    // call is done (W3). Not from inside the other methods.
    void drain() { readers_.drain(); }

private:
    bool may_write_in_place(const ClusterMapping &mapping) const;

    Result<std::uint64_t> write_in_place(GuestOffset offset, Bytes bytes);
    Result<std::uint64_t> write_new(GuestOffset offset, Bytes bytes);
    Result<std::uint64_t> write_new_locked(GuestOffset offset, Bytes bytes);
    Result<void> place_cluster(GuestCluster cluster);
    Result<void> place_zeros(Range range);
    bool reads_as_zeros(const ClusterMapping &mapping, std::uint64_t offset) const;
    Result<std::uint64_t> zeros_of(const MappedRun &run, std::uint64_t offset) const;
    Result<void> read_backing(std::uint64_t offset, MutableBytes bytes);
    bool must_write_zeros(bool may_unmap) const;
    ClusterMapping zeroed(const ClusterMapping &was, bool may_unmap) const;
    ClusterMapping trimmed(const ClusterMapping &was) const;
    Result<void> read_run(const MappedRun &run, GuestOffset offset, MutableBytes bytes);
    Result<void> fill(const Allocator::Taken &target, GuestOffset offset, Bytes payload,
                      const ClusterMapping &old);
    Result<void> name(GuestCluster first, HostRun run);

    // Bytes of the guest, whole clusters (or subclusters).
    Range whole_parts(Range range) const;
    Result<void> zero_bytes(Range range);
    Result<void> name_zeros(std::uint64_t offset);
    Result<void> zero_raw(Range range, bool may_unmap);
    Result<std::uint64_t> zero_in_place(Range range, bool may_unmap);
    Result<void> discard_in_places(Range range);
    // Or only the tables that a change needs.
    enum class Step { place, change };
    Result<void> change_clusters(Range range, Step step, const Mapping::Change &change);
    Result<void> zero_parts(Range whole, Step step, bool may_unmap);
    Result<void> trim_parts(Range whole, Step step);

    // Extended L2 entries, in subclusters.cpp.
    enum class PartChange { zero, zero_and_keep, name_zeros, trim };
    Result<std::uint64_t> write_parts(GuestOffset offset, Bytes bytes);
    Result<void> change_parts(Range range, Step step, PartChange change);
    Result<bool> parts_of_compressed(Range range);
    Subclusters changed_parts(const ClusterMapping &was, std::uint32_t mask,
                              PartChange change) const;

    const std::unique_ptr<GuestClusters> clusters_;
    ByteStore &data_;  // theirs
    Mapping &mapping_;
    const Geometry geometry_;
    const std::uint64_t disk_size_;
    const bool raw_data_file_;
    bool keep_clusters_ = false;  // constant in use

    std::shared_ptr<Backing> backing_;  // constant in use
    CompressedClusters compressed_;
    Gate readers_{Rank::readers};
    RangeLock in_flight_{Rank::ranges};  // guest clusters being made or freed
};

}  // namespace qcow2
