// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// CountChanges: by how much a structural change alters refcounts, cluster by
// cluster. Sparse: memory for pages of clusters of which one has changed. One
// thread.

#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>

#include "core/base/result.h"
#include "core/format/units.h"

namespace qcow2 {

class CountChanges {
public:
    // by: may be negative.
    void add(HostRun run, std::int64_t by)
    {
        for (HostCluster c = run.first; c < run.end(); ++c)
            page_of(c)[c.value % page_clusters] += by;
    }

    std::int64_t of(HostCluster cluster) const
    {
        const Page *page = find(cluster.value / page_clusters);
        return page ? (*page)[cluster.value % page_clusters] : 0;
    }

    // Calls visit(cluster, change) for what has changed in [from, end), in
    // ascending order, until that fails.
    template <class Visit>
    Result<void> for_each(HostCluster from, HostCluster end, Visit visit) const
    {
        for (auto page = pages_.lower_bound(from.value / page_clusters); page != pages_.end();
             ++page) {
            const HostCluster first(page->first * page_clusters);
            if (first >= end)
                break;
            for (std::uint64_t i = 0; i < page_clusters; ++i)
                if ((*page->second)[i] != 0 && first + i >= from && first + i < end)
                    TRY(visit(first + i, (*page->second)[i]));
        }
        return {};
    }
    template <class Visit>
    Result<void> for_each(Visit visit) const
    {
        return for_each(HostCluster(0), HostCluster(~std::uint64_t(0)), visit);
    }

private:
    static constexpr std::uint64_t page_clusters = 512;
    using Page = std::array<std::int64_t, page_clusters>;

    // nullptr if it is not there.
    Page *find(std::uint64_t number) const
    {
        if (last_ && last_number_ == number)
            return last_;
        const auto page = pages_.find(number);
        if (page == pages_.end())
            return nullptr;
        last_number_ = number;
        return last_ = page->second.get();
    }

    Page &page_of(HostCluster cluster)
    {
        const std::uint64_t number = cluster.value / page_clusters;
        if (Page *page = find(number))
            return *page;
        return *(pages_[number] = std::make_unique<Page>());
    }

    std::map<std::uint64_t, std::unique_ptr<Page>> pages_;
    // That which was asked for last: clusters mostly follow each other. None goes away.
    mutable std::uint64_t last_number_ = 0;
    mutable Page *last_ = nullptr;
};

}  // namespace qcow2
