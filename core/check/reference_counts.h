// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// How often each host cluster is named, and as what. A page of clusters is a word
// for all of them and a short list of those that differ, or else a word for each:
// little where names lead anywhere, 4 bytes for each cluster where they are dense, and
// nothing that grows with long runs of one kind. One thread.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/base/arith.h"

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
        page_for(cluster / page_clusters).add(cluster % page_clusters, times, use);
    }
    // For so many clusters from this one on.
    void add_run(std::uint64_t first, std::uint64_t count, std::uint64_t times, Use use)
    {
        const std::uint64_t end = first + count;
        for (std::uint64_t at = first; at < end;) {
            const std::uint64_t page_end =
                std::min(end, align_down(at, page_clusters) + page_clusters);
            if (page_end - at == page_clusters)
                page_for(at / page_clusters).add_all(times, use);
            else
                for (std::uint64_t c = at; c < page_end; ++c)
                    add(c, times, use);
            at = page_end;
        }
    }

    using Words = std::array<Word, page_clusters>;
    // The words of a page. False, and they are zero, if none of its clusters is named.
    bool page(std::uint64_t index, Words &words) const
    {
        const auto it = pages_.find(index);
        if (it == pages_.end()) {
            words = {};
            return false;
        }
        it->second.copy_to(words);
        return true;
    }

    Word of(std::uint64_t cluster) const
    {
        const auto it = pages_.find(cluster / page_clusters);
        return it == pages_.end() ? Word() : it->second.of(cluster % page_clusters);
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
    class Page {
    public:
        Word of(std::uint64_t number) const
        {
            if (many_)
                return (*many_)[number];
            const auto found = std::lower_bound(few_.begin(), few_.end(), number, is_before);
            return found != few_.end() && found->number == number ? found->word : all_;
        }
        void add(std::uint64_t number, std::uint64_t times, Use use)
        {
            raise(many_ ? (*many_)[number] : own_word(number), times, use);
        }
        void add_all(std::uint64_t times, Use use)
        {
            raise(all_, times, use);
            for (Few &one : few_)
                raise(one.word, times, use);
            if (many_)
                for (Word &word : *many_)
                    raise(word, times, use);
        }
        void copy_to(Words &words) const
        {
            if (many_) {
                words = *many_;
                return;
            }
            words.fill(all_);
            for (const Few &one : few_)
                words[one.number] = one.word;
        }

    private:
        struct Few {
            std::uint32_t number;
            Word word;
        };
        static bool is_before(const Few &one, std::uint64_t number) { return one.number < number; }

        static void raise(Word &word, std::uint64_t times, Use use)
        {
            const std::uint32_t count =
                times > count_max - word.count() ? count_max : word.count() + std::uint32_t(times);
            word.raw = (word.raw & ~count_max) | count | static_cast<std::uint32_t>(use);
        }
        Word &own_word(std::uint64_t number)
        {
            auto place = few_.end();
            if (!few_.empty() && few_.back().number >= number)
                place = std::lower_bound(few_.begin(), few_.end(), number, is_before);
            if (place != few_.end() && place->number == number)
                return place->word;
            if (few_.size() < few_max)
                return few_.insert(place, {std::uint32_t(number), all_})->word;
            auto many = std::make_unique<Words>();
            copy_to(*many);
            many_ = std::move(many);
            few_ = {};
            return (*many_)[number];
        }

        static constexpr std::size_t few_max = page_clusters / 4;

        Word all_;
        std::vector<Few> few_;         // that differ, ascending
        std::unique_ptr<Words> many_;  // in the place of both, if there
    };

    Page &page_for(std::uint64_t index)
    {
        if (!last_ || last_index_ != index) {
            last_ = &pages_[index];
            last_index_ = index;
        }
        return *last_;
    }

    std::unordered_map<std::uint64_t, Page> pages_;
    Page *last_ = nullptr;  // the page that was used last
    std::uint64_t last_index_ = 0;
};

}  // namespace qcow2
