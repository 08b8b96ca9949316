// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/file_clusters.h"

#include <algorithm>
#include <bit>

#include "core/base/invariant.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t word_bits = 64;

// The bits of word w that lie in the range.
std::uint64_t mask(Range bits, std::uint64_t w)
{
    const Range part = intersection(bits, Range::of(w * word_bits, word_bits));
    if (part.empty())
        return 0;
    const std::uint64_t ones = ~std::uint64_t(0) >> (word_bits - part.length());
    return ones << (part.begin % word_bits);
}

void put(std::vector<std::uint64_t> &words, Range bits, bool value)
{
    for (std::uint64_t w = bits.begin / word_bits; w * word_bits < bits.end; ++w)
        words[w] = value ? words[w] | mask(bits, w) : words[w] & ~mask(bits, w);
}

bool test(const std::vector<std::uint64_t> &words, std::uint64_t bit)
{
    return words[bit / word_bits] >> (bit % word_bits) & 1;
}

std::uint64_t count(const std::vector<std::uint64_t> &words, std::uint64_t end)
{
    std::uint64_t n = 0;
    for (std::uint64_t w = 0; w * word_bits < end; ++w)
        n += static_cast<std::uint64_t>(std::popcount(words[w] & mask({0, end}, w)));
    return n;
}

}  // namespace

FileClusters::FileClusters(std::uint64_t clusters, std::uint64_t page_clusters)
    : clusters_(clusters), page_clusters_(page_clusters), pages_(div_ceil(clusters, page_clusters))
{
    INVARIANT(page_clusters % word_bits == 0);
}

// The last page may have fewer.
std::uint64_t FileClusters::clusters_of(std::uint64_t page) const
{
    return std::min(page_clusters_, clusters_ - page * page_clusters_);
}

FileClusters::Mixed &FileClusters::mix(Page &page) const
{
    if (!page.mixed) {
        page.mixed = std::make_unique<Mixed>();
        const auto words = [&](Kind kind) {
            return Words(page_clusters_ / word_bits, page.kind == kind ? ~std::uint64_t(0) : 0);
        };
        page.mixed->data = words(Kind::data);
        page.mixed->zero = words(Kind::zero);
    }
    return *page.mixed;
}

void FileClusters::set(Range clusters, Kind kind)
{
    INVARIANT(clusters.end <= clusters_);
    for (std::uint64_t p = clusters.begin / page_clusters_; !clusters.empty(); ++p) {
        const std::uint64_t begin = p * page_clusters_;
        const Range part = intersection(clusters, Range::of(begin, clusters_of(p)));
        clusters.begin = part.end;
        if (part.length() == clusters_of(p)) {
            pages_[p].mixed.reset();
            pages_[p].kind = kind;
            continue;
        }
        Mixed &mixed = mix(pages_[p]);
        put(mixed.data, {part.begin - begin, part.end - begin}, kind == Kind::data);
        put(mixed.zero, {part.begin - begin, part.end - begin}, kind == Kind::zero);
    }
}

// What has become all of one kind needs no bits.
void FileClusters::unmix(std::uint64_t p)
{
    Page &page = pages_[p];
    if (!page.mixed)
        return;
    const std::uint64_t all = clusters_of(p);
    const std::uint64_t data = count(page.mixed->data, all), zero = count(page.mixed->zero, all);
    if (data != all && zero != all && data + zero != 0)
        return;
    page.kind = data == all ? Kind::data : zero == all ? Kind::zero : Kind::absent;
    page.mixed.reset();
}

void FileClusters::finish()
{
    used_.clear();
    data_count_ = 0;
    for (std::uint64_t p = 0; p < pages_.size(); ++p) {
        unmix(p);
        pages_[p].data_before = data_count_;
        data_count_ += data_in(p, clusters_of(p));
        if (is_used(p))
            used_.push_back(p);
    }
}

FileClusters::Kind FileClusters::kind(std::uint64_t cluster) const
{
    const Page &page = pages_[cluster / page_clusters_];
    const std::uint64_t bit = cluster % page_clusters_;
    if (!page.mixed)
        return page.kind;
    return test(page.mixed->data, bit)   ? Kind::data
           : test(page.mixed->zero, bit) ? Kind::zero
                                         : Kind::absent;
}

// Of the first so many clusters of a page.
std::uint64_t FileClusters::data_in(std::uint64_t p, std::uint64_t clusters) const
{
    const Page &page = pages_[p];
    return page.mixed ? count(page.mixed->data, clusters) : page.kind == Kind::data ? clusters : 0;
}

std::uint64_t FileClusters::data_before(std::uint64_t cluster) const
{
    const std::uint64_t p = cluster / page_clusters_;
    return p == pages_.size() ? data_count_
                              : pages_[p].data_before + data_in(p, cluster % page_clusters_);
}

std::uint64_t FileClusters::data_cluster(std::uint64_t n) const
{
    INVARIANT(n < data_count_);
    // The last page that has no more than n before it is the one.
    const auto above = std::ranges::upper_bound(pages_, n, {}, &Page::data_before);
    const std::uint64_t p = static_cast<std::uint64_t>(above - pages_.begin()) - 1;
    std::uint64_t left = n - pages_[p].data_before;
    if (!pages_[p].mixed)
        return p * page_clusters_ + left;
    for (std::uint64_t w = 0;; ++w) {
        std::uint64_t word = pages_[p].mixed->data[w];
        const std::uint64_t here = static_cast<std::uint64_t>(std::popcount(word));
        if (left >= here) {
            left -= here;
            continue;
        }
        for (; left > 0; --left)
            word &= word - 1;
        return p * page_clusters_ + w * word_bits +
               static_cast<std::uint64_t>(std::countr_zero(word));
    }
}

bool FileClusters::is_used(std::uint64_t page) const
{
    return pages_[page].mixed || pages_[page].kind != Kind::absent;
}

std::uint64_t FileClusters::used_before(std::uint64_t page) const
{
    return static_cast<std::uint64_t>(std::ranges::lower_bound(used_, page) - used_.begin());
}

}  // namespace qcow2
