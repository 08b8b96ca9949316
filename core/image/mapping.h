// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Mapping: where the bytes of the disk are. It looks (map) and changes
// (update); it moves no guest bytes.
//
// Changes are made in memory and written back later: seal(), write(),
// unseal(), one at a time and by Image::flush() alone, which knows what must
// be durable before (W2) and after (W3). What a change left without a name is
// kept here until then: the *released* clusters.
//
// Any thread. Two threads must not update the same clusters at once: callers
// hold them in a range lock.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <vector>

#include "core/base/range_lock.h"
#include "core/format/cluster_mapping.h"
#include "core/image/allocator.h"
#include "core/image/l1_table.h"
#include "core/image/lookaside.h"
#include "core/image/table_cache.h"

namespace qcow2 {

// A part of the disk that is mapped in one way.
struct MappedRun {
    ClusterMapping mapping;    // of the cluster, or subcluster, that holds its first byte
    std::uint64_t length = 0;  // bytes; Data, and Zero with a cluster: side by side in the file
};

class Mapping {
public:
    using Change = std::function<ClusterMapping(GuestCluster, const ClusterMapping &)>;

    struct Sealed {
        std::vector<L1Table::Sector> l1;
        std::set<std::uint64_t> l1_sectors;
        TableCache::Sealed l2;
        std::vector<HostRun> released;
        std::uint64_t lost_names = 0;  // that were put out of reach until then
        bool empty() const { return l1.empty() && l2.empty() && released.empty(); }
    };

    Mapping(GuardedStore &store, ImageHeader &header, MetadataMap &metadata, Allocator &allocator,
            std::uint64_t cache_bytes);

    // Reads and checks the L1 table, the active one or that of a snapshot. A bad
    // entry forbids writing, and reading what it maps. All other metadata is known
    // by then.
    Result<void> open(HostOffset l1_table_offset, std::uint32_t l1_size);
    const std::optional<Error> &why_read_only() const { return why_read_only_; }

    // From now on the file may grow: an L2 entry that is found to lead behind its end
    // is put out of reach, and holds growth until that was written back.
    void put_lost_names_out_of_reach() { writing_ = true; }

    // The longest run from this offset on that is mapped in one way, at most
    // length_max (not 0). A `copied` of it means that the cluster, and the
    // table that names it, may be written in place. corrupt: names the place.
    // No lock is taken for a part of one cluster that was looked up lately.
    Result<MappedRun> map(GuestOffset offset, std::uint64_t length_max);

    // What the whole cluster is mapped to: with extended L2 entries Subclusters
    // or Compressed. `copied` as in map().
    Result<ClusterMapping> cluster(GuestCluster cluster);

    // Fails (data_cluster_is_metadata) if any of the `count` clusters that start at this
    // mapping is known metadata: images lie. Call it before writing to them or releasing
    // them. guest: where the mapping stands, for the message.
    Result<void> check_own(const ClusterMapping &mapping, std::uint64_t count, GuestOffset guest);
    // check_own() has failed, so that a request was refused.
    bool met_metadata() const { return met_metadata_.load(); }

    // Makes sure that the L2 table of this cluster exists and is ours alone.
    // No lock may be held but ranges.
    Result<void> make_table(GuestCluster cluster);
    // True if it exists (shared or not): nothing is mapped where it does not.
    bool has_table(GuestCluster cluster) const;
    // There is any.
    bool has_tables() const;

    // Changes the mapping of the first of these clusters, all in one L2 table,
    // which make_table() has made; returns how many (at least one), or fails
    // and has changed none; corrupt also where an entry would be changed that
    // names metadata. Clusters that lose their name are released.
    Result<std::uint64_t> update(GuestCluster first, std::uint64_t count, const Change &change);

    // The tables in the file have changed under it, where they stand: nothing is
    // dirty, and nobody else uses the mapping.
    Result<void> reload();

    // Moves to an L1 table of so many entries; nobody else uses the mapping
    // and nothing is dirty. Committed by the header (H1).
    Result<void> grow_l1(std::uint64_t entries);
    std::uint64_t l1_entries() const;

    // Too much is dirty: it is time to flush.
    bool wants_write_back() const;
    // A flush would give clusters back.
    bool has_released() const;

    Sealed seal();
    Result<void> write(const Sealed &sealed);
    void unseal(Sealed &&sealed, bool written);

private:
    // A word of a table, found under the lock.
    HostOffset entry_place(L1Entry l1, GuestCluster cluster) const;
    void put_out_of_reach(HostOffset place, std::uint8_t *entry) REQUIRES(cache_.mutex);
    Result<ClusterMapping> decode(const std::uint8_t *entry, GuestCluster cluster) const;
    void encode(const ClusterMapping &mapping, std::uint8_t *entry) const;
    // A piece of an L2 table that is looked at; good while the lock is held.
    struct Window {
        HostOffset begin;
        MutableBytes bytes;
    };
    Result<ClusterMapping> load(GuestCluster cluster, Window &window) REQUIRES(cache_.mutex);
    Result<MappedRun> map_locked(GuestOffset offset, std::uint64_t length_max)
        REQUIRES(cache_.mutex);
    std::uint64_t alike_behind(GuestCluster cluster, std::uint64_t clusters_max,
                               const Window &window) const REQUIRES(cache_.mutex);
    void release(const ClusterMapping &was, const ClusterMapping &is) REQUIRES(cache_.mutex);

    Result<void> fill_table(HostOffset table, L1Entry old);

    GuardedStore &store_;
    ImageHeader &header_;
    MetadataMap &metadata_;
    Allocator &allocator_;
    const Geometry geometry_;
    const std::uint64_t dirty_bytes_max_;
    std::optional<Error> why_read_only_;  // constant after open

    std::atomic<bool> met_metadata_{false};
    std::atomic<bool> writing_{false};
    RangeLock tables_{Rank::tables};  // L1 indices of tables that are being made

    mutable TableCache cache_;
    Lookaside lookaside_;  // put and forgotten under cache_.mutex
    L1Table l1_ GUARDED_BY(cache_.mutex);
    std::vector<HostRun> released_ GUARDED_BY(cache_.mutex);
};

}  // namespace qcow2
