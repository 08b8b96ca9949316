// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// GuestClusters: where the clusters of the guest come from, and where their bytes are.
//
//   CountedClusters   in the image itself: each is taken from the allocator, counted, and
//                     freed when nothing names it any more;
//   DataFileClusters  in an external data file: each guest cluster has its place, at its
//                     own offset, and nobody counts it.
//
// Any thread.

#pragma once

#include "core/base/byte_store.h"
#include "core/format/geometry.h"
#include "core/image/allocator.h"

namespace qcow2 {

class GuestClusters {
public:
    explicit GuestClusters(ByteStore &bytes) : bytes_(bytes) {}
    virtual ~GuestClusters() = default;

    // The store that has them, at the offsets that the mapping names.
    ByteStore &bytes() const { return bytes_; }

    // Clusters for so many guest clusters from `first` on, or for the first of them (W1).
    // Errors: those of Allocator::take(), and of a store that cannot grow.
    virtual Result<Allocator::Taken> take(GuestCluster first, std::uint64_t count) = 0;
    // What was taken and has got no name.
    virtual void give_back(HostRun run) = 0;
    // Makes the store long enough for the bytes before this offset, which a mapping names.
    virtual Result<void> reach(std::uint64_t end) = 0;
    // Writes whole clusters.
    virtual Result<void> write_clusters(std::uint64_t offset, Bytes bytes) = 0;
    // The first stretch there, at most length_max long: a hole, if it is known to be one.
    virtual ByteStore::Stretch stretch(std::uint64_t offset, std::uint64_t length_max) = 0;
    // Whether a guest cluster has the same place for ever, also without a name.
    virtual bool have_places() const = 0;

protected:
    ByteStore &bytes_;
};

class CountedClusters final : public GuestClusters {
public:
    CountedClusters(ByteStore &image, Allocator &allocator, std::uint64_t cluster_size)
        : GuestClusters(image), allocator_(allocator), cluster_size_(cluster_size)
    {
    }

    Result<Allocator::Taken> take(GuestCluster, std::uint64_t count) override
    {
        return allocator_.take(count);
    }
    void give_back(HostRun run) override { allocator_.give_back(run); }
    // The last cluster of the image may be cut short, and named.
    Result<void> reach(std::uint64_t end) override
    {
        return end > bytes_.size() ? pad_last() : Result<void>();
    }
    Result<void> write_clusters(std::uint64_t offset, Bytes bytes) override
    {
        return bytes_.write(offset, bytes);
    }
    ByteStore::Stretch stretch(std::uint64_t, std::uint64_t length_max) override
    {
        return {length_max, false};
    }
    bool have_places() const override { return false; }

private:
    Result<void> pad_last();

    Allocator &allocator_;
    const std::uint64_t cluster_size_;
};

// The file may be shorter than the disk, and than what is mapped. Where it ends inside a
// cluster the disk ends there, too; inside a sector only if the disk does (W8).
class DataFileClusters final : public GuestClusters {
public:
    DataFileClusters(ByteStore &file, const Geometry &geometry, std::uint64_t disk_size)
        : GuestClusters(file), geometry_(geometry), disk_size_(disk_size)
    {
    }

    Result<Allocator::Taken> take(GuestCluster first, std::uint64_t count) override;
    void give_back(HostRun) override {}
    Result<void> reach(std::uint64_t end) override;
    Result<void> write_clusters(std::uint64_t offset, Bytes bytes) override;
    ByteStore::Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override
    {
        return bytes_.stretch(offset, length_max);
    }
    bool have_places() const override { return true; }

private:
    const Geometry geometry_;
    const std::uint64_t disk_size_;
};

}  // namespace qcow2
