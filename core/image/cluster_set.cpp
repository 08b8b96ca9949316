// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/cluster_set.h"

#include <algorithm>
#include <numeric>

namespace qcow2 {

// The first that is not before this one.
ClusterSet::Page::Few::const_iterator ClusterSet::Page::at(std::uint64_t number) const
{
    return std::lower_bound(few_.begin(), few_.end(), number);
}

void ClusterSet::Page::turn_into_bits()
{
    many_ = BitVector(page_clusters);
    for (const std::uint16_t number : few_)
        many_.set(number);
    few_ = Few();
}

bool ClusterSet::Page::add(Range range)
{
    if (many_.size() == 0 && few_.size() + range.length() > few_max)
        turn_into_bits();
    if (many_.size() != 0) {
        const bool all_new = many_.none(range);
        many_.set(range);
        return all_new;
    }
    const auto begin = at(range.begin), end = at(range.end);
    const bool all_new = begin == end;
    const auto place = few_.insert(few_.erase(begin, end), range.length(), 0);
    std::iota(place, place + static_cast<std::ptrdiff_t>(range.length()),
              static_cast<std::uint16_t>(range.begin));
    return all_new;
}

void ClusterSet::Page::remove(Range range)
{
    if (many_.size() != 0)
        many_.clear(range);
    else
        few_.erase(at(range.begin), at(range.end));
}

bool ClusterSet::Page::overlaps(Range range) const
{
    return many_.size() != 0 ? !many_.none(range) : at(range.begin) != at(range.end);
}

// Calls visit(index, range in the page) until that says false.
template <class Visit>
void ClusterSet::for_each_page(HostRun run, Visit visit)
{
    for (std::uint64_t at = run.first.value; at != run.end().value;) {
        const std::uint64_t begin = at % page_clusters;
        const std::uint64_t length = std::min(page_clusters - begin, run.end().value - at);
        if (!visit(at / page_clusters, Range::of(begin, length)))
            return;
        at += length;
    }
}

bool ClusterSet::add(HostRun run)
{
    bool all_new = true;
    for_each_page(run, [&](std::uint64_t index, Range range) {
        all_new &= pages_[index].add(range);
        return true;
    });
    return all_new;
}

void ClusterSet::remove(HostRun run)
{
    for_each_page(run, [&](std::uint64_t index, Range range) {
        const auto page = pages_.find(index);
        if (page == pages_.end())
            return true;
        page->second.remove(range);
        if (page->second.empty())
            pages_.erase(page);
        return true;
    });
}

bool ClusterSet::overlaps(HostRun run) const
{
    bool found = false;
    for_each_page(run, [&](std::uint64_t index, Range range) {
        const auto page = pages_.find(index);
        found = page != pages_.end() && page->second.overlaps(range);
        return !found;
    });
    return found;
}

}  // namespace qcow2
