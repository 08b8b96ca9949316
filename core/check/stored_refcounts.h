// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// StoredRefcounts: the refcounts as the file says them. The reader of the refcount
// table tells it where blocks are. Read only; one thread.

#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/base/byte_store.h"
#include "core/check/reference_counts.h"
#include "core/format/geometry.h"
#include "core/format/refcount_block.h"

namespace qcow2 {

class StoredRefcounts {
public:
    // file_size: bytes; refcounts far behind the end are of no interest.
    void open(ByteStore &store, const Geometry &geometry, std::uint64_t file_size);

    void add_block(std::uint64_t index, std::uint64_t offset);
    // Offsets of blocks by index, 0: none.
    const std::vector<std::uint64_t> &blocks() const { return blocks_; }
    bool has_block(std::uint64_t index) const
    {
        return index < blocks_.size() && blocks_[index] != 0;
    }

    // The part of a refcount block that is about the file and the cluster
    // behind its end; empty if there is no block, or no such part, or all of it is a
    // hole.
    Result<Bytes> block(std::uint64_t index);

    // 0 where there is no block.
    Result<std::uint64_t> of(std::uint64_t cluster);

    // Calls visit(cluster, refcount, word) for each cluster that has a refcount
    // or a name: first those that a refcount block speaks of, then the named
    // ones without a block. Refcounts behind the end of the file do not matter
    // (as with QEMU).
    template <class Visit>
    Result<void> compare(const ReferenceCounts &counts, Visit visit);

private:
    ByteStore *store_ = nullptr;
    Geometry geometry_;
    std::uint64_t file_size_ = 0;

    std::vector<std::uint64_t> blocks_;
    std::unordered_map<std::uint64_t, Buffer> cache_;
    std::size_t cache_bytes_ = 0;
    std::uint64_t last_ = 0;
    Bytes last_bytes_;
};

template <class Visit>
Result<void> StoredRefcounts::compare(const ReferenceCounts &counts, Visit visit)
{
    constexpr std::uint64_t page = ReferenceCounts::page_clusters;
    const std::uint64_t file_clusters = geometry_.clusters_for(file_size_);
    const std::uint32_t order = geometry_.refcount_order;
    ReferenceCounts::Words words;

    for (std::uint64_t b = 0; b < blocks_.size(); ++b) {
        const Bytes bytes = TRY(block(b));
        const std::uint64_t first = b << geometry_.refcount_block_bits();
        if (bytes.empty() || first >= file_clusters)
            continue;
        const std::uint64_t end =
            std::min(file_clusters, first + geometry_.refcount_block_entries());
        for (std::uint64_t c = first; c < end;) {
            const std::uint64_t page_end = std::min(end, align_down(c, page) + page);
            const bool named = counts.page(c / page, words);
            for (; c < page_end; ++c) {
                if (!named) {
                    c = first + find_refcount(bytes, order, c - first, page_end - first, false);
                    if (c == page_end)
                        break;
                }
                visit(c, load_refcount(bytes, order, c - first), words[c % page]);
            }
        }
    }
    for (const std::uint64_t p : counts.page_indices()) {
        counts.page(p, words);
        for (std::uint64_t i = 0; i < page; ++i) {
            const std::uint64_t c = p * page + i;
            if (words[i].count() == 0)
                continue;
            if (c >= file_clusters || TRY(block(c >> geometry_.refcount_block_bits())).empty())
                visit(c, TRY(of(c)), words[i]);
        }
    }
    return {};
}

}  // namespace qcow2
