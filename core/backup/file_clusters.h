// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FileClusters: which clusters of a disk a backup file has, and as what; found by the
// number of the cluster in the disk, and by its number among those that have data.
//
// Two bits for each cluster, in pages of as many clusters as an L2 table tells of. A page
// that is all of one kind needs none. Each page knows how many data clusters there are
// before it: so both ways are a search among pages and a count of the bits of one.
//
// set() by one thread; after finish() any thread may ask.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/range.h"

namespace qcow2 {

class FileClusters {
public:
    // absent: the file says nothing of it. zero: it says that there are zeros.
    enum class Kind : std::uint8_t { absent, data, zero };

    // page_clusters: a multiple of 64.
    FileClusters(std::uint64_t clusters, std::uint64_t page_clusters);

    void set(Range clusters, Kind kind);
    void finish();

    std::uint64_t pages() const { return pages_.size(); }
    std::uint64_t page_clusters() const { return page_clusters_; }
    Kind kind(std::uint64_t cluster) const;
    std::uint64_t data_count() const { return data_count_; }
    // How many before this one have data; cluster: up to the number of all.
    std::uint64_t data_before(std::uint64_t cluster) const;
    // The n-th (from 0) that has data, n < data_count().
    std::uint64_t data_cluster(std::uint64_t n) const;

    // Pages that are not wholly absent, in the same two ways.
    std::uint64_t used_count() const { return used_.size(); }
    bool is_used(std::uint64_t page) const;
    std::uint64_t used_before(std::uint64_t page) const;
    std::uint64_t used_page(std::uint64_t n) const { return used_[n]; }

private:
    using Words = std::vector<std::uint64_t>;
    struct Mixed {
        Words data, zero;
    };
    struct Page {
        std::uint64_t data_before = 0;
        Kind kind = Kind::absent;  // of all, if it is not mixed
        std::unique_ptr<Mixed> mixed;
    };

    std::uint64_t clusters_of(std::uint64_t page) const;
    Mixed &mix(Page &page) const;
    void unmix(std::uint64_t page);
    std::uint64_t data_in(std::uint64_t page, std::uint64_t clusters) const;

    const std::uint64_t clusters_;
    const std::uint64_t page_clusters_;
    std::vector<Page> pages_;
    std::vector<std::uint64_t> used_;
    std::uint64_t data_count_ = 0;
};

}  // namespace qcow2
