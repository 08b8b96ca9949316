// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// How often each host cluster is named, and as what. Sparse: memory for pages
// of clusters of which one is named at least. One thread.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace qcow2 {

// What a cluster is used as. Guest clusters and L2 tables may be shared among
// snapshots; everything else belongs to one owner.
enum class Use : std::uint32_t {
    guest = 1u << 29,
    l2_table = 1u << 30,
    sole = 1u << 31,
};

class ReferenceCounts {
public:
    static constexpr std::uint64_t page_clusters = 512;
    static constexpr std::uint32_t count_max = (1u << 29) - 1;  // and stays there

    struct Word {
        std::uint32_t raw = 0;

        std::uint32_t count() const { return raw & count_max; }
        bool is(Use use) const { return raw & static_cast<std::uint32_t>(use); }
        // One kind of use only, and a sole owner where there must be one.
        bool well_used() const
        {
            return is(Use::sole) ? count() == 1 && !is(Use::guest) && !is(Use::l2_table)
                                 : !(is(Use::guest) && is(Use::l2_table));
        }
    };

    void add(std::uint64_t cluster, std::uint64_t times, Use use)
    {
        Word &word = page_for(cluster / page_clusters)[cluster % page_clusters];
        const std::uint32_t count =
            times > count_max - word.count() ? count_max : word.count() + std::uint32_t(times);
        word.raw = (word.raw & ~count_max) | count | static_cast<std::uint32_t>(use);
    }

    // page_clusters words; nullptr if none of its clusters is named.
    const Word *page(std::uint64_t index) const
    {
        const auto it = pages_.find(index);
        return it == pages_.end() ? nullptr : it->second.get();
    }

    Word of(std::uint64_t cluster) const
    {
        const Word *words = page(cluster / page_clusters);
        return words ? words[cluster % page_clusters] : Word();
    }

    // Indices of the pages that are there, ascending.
    std::vector<std::uint64_t> page_indices() const
    {
        std::vector<std::uint64_t> indices;
        indices.reserve(pages_.size());
        for (const auto &[index, page] : pages_)
            indices.push_back(index);
        std::sort(indices.begin(), indices.end());
        return indices;
    }

private:
    Word *page_for(std::uint64_t index)
    {
        if (!last_ || last_index_ != index) {
            auto &page = pages_[index];
            if (!page)
                page = std::make_unique<Word[]>(page_clusters);
            last_ = page.get();
            last_index_ = index;
        }
        return last_;
    }

    std::unordered_map<std::uint64_t, std::unique_ptr<Word[]>> pages_;
    Word *last_ = nullptr;  // the page that was used last
    std::uint64_t last_index_ = 0;
};

}  // namespace qcow2
