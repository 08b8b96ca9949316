// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Refcounts: how often each host cluster is used, as the file says it.
//
// The table is in memory, blocks are cached in pieces. What the cache holds
// may be written at any time: counts are raised before a name is written (W1)
// and lowered after it is durably gone (W3), so that every state of the cache
// leaks at worst.
//
// The Allocator owns it; all calls are made under the allocator's lock.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/image/image_header.h"
#include "core/image/metadata_map.h"
#include "core/image/table_cache.h"

namespace qcow2 {

class Refcounts {
public:
    Refcounts(ByteStore &store, ImageHeader &header, MetadataMap &metadata,
              std::uint64_t cache_bytes);

    // Reads and checks the table. corrupt: the finding that forbids writing.
    Result<void> open();

    const Geometry &geometry() const { return geometry_; }

    // Clusters whose block does not exist have a count of 0.
    Result<std::uint64_t> get(HostCluster cluster);
    // Of those from `first` on.
    Result<void> get(HostCluster first, std::span<std::uint64_t> counts);

    // True if the block that counts this cluster exists.
    bool covered(HostCluster cluster) const;
    // The first cluster that the same block does not count.
    HostCluster block_end(HostCluster cluster) const;

    // Adds 1 or takes 1 away, in the cache. The clusters are covered. All or
    // nothing. unsupported: a count would not fit its width.
    Result<void> raise(HostRun run);
    Result<void> lower(HostRun run);

    // The first run of clusters with count 0 in [from, end), at most
    // count_max long; empty (count 0) if there is none before `end` or before
    // the first cluster that is not covered, which is then its `first`.
    Result<HostRun> find_free(HostCluster from, HostCluster end, std::uint64_t count_max);

    // The end of the last cluster in use, or perhaps in use, at most `end`.
    Result<HostCluster> used_end(HostCluster end);

    // Whether a cluster from this one on has a count. Reads what blocks there are
    // for them: of a sound image the last part of one.
    Result<bool> counts_from(HostCluster first);

    // Makes the block that counts `covers`, in cluster `at`, which is free and
    // lies inside the store; durable. The table must be long enough.
    Result<void> make_block(HostCluster covers, HostCluster at);

    // The first cluster that the table has no entry for.
    HostCluster reach_end() const;
    // Moves to a longer table, which is put at reach_end() together with the
    // blocks that count it: growth_clusters() clusters, which must lie inside
    // the store. Committed by the header (H1). Returns the clusters of the old
    // table, which must be lowered. growth_clusters() is 0 if the table would
    // get longer than QEMU opens.
    std::uint64_t growth_clusters() const { return growth().clusters(); }
    Result<HostRun> grow_table();

    // Writes what is dirty. Not durable until the store is flushed.
    Result<void> write_back();

private:
    struct Place {
        HostOffset offset;          // of the piece's byte
        std::uint64_t entry;        // of the block
        std::uint64_t piece_entry;  // the entry's number within the piece
        std::uint64_t piece_end;    // the first entry of the block behind the piece
    };
    std::uint64_t block_index(HostCluster cluster) const
    {
        return cluster.value >> geometry_.refcount_block_bits();
    }
    Place place(HostCluster cluster) const;
    // From here on no block exists.
    HostCluster blocks_end() const;
    Result<void> add(HostRun run, bool up);
    Result<void> add_one(HostCluster cluster, bool up) REQUIRES(cache_.mutex);

    struct Growth {
        std::uint64_t table_entries = 0;
        std::uint64_t table_clusters = 0;
        std::uint64_t blocks = 0;
        std::uint64_t clusters() const { return blocks + table_clusters; }
    };
    Growth growth() const;

    Result<void> publish_block(std::uint64_t index, HostOffset offset, Bytes block);
    Result<void> publish_table(HostOffset where, Bytes aside, HostOffset table,
                               std::uint64_t table_clusters);

    // The first cluster in [from, end) whose count is zero, or not; `end` if
    // there is none. All of [from, end) is counted by one block, which exists.
    Result<HostCluster> find(HostCluster from, HostCluster end, bool zero);
    Result<HostCluster> counted_end(HostCluster end);

    ByteStore &store_;
    ImageHeader &header_;
    MetadataMap &metadata_;
    const Geometry geometry_;
    TableCache cache_;
    HostOffset table_offset_;
    std::uint64_t table_entries_ = 0;
    std::vector<HostOffset> table_;  // up to its last block; 0: no block
    // Behind the last block that make_block() has made. Its entry may be in the file even if the
    // write of it has failed: then the block is right as it stands there, counts nothing but
    // perhaps itself, and is not to be cut off.
    HostCluster made_end_;
};

}  // namespace qcow2
