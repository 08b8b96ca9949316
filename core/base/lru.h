// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lru: which of the things in a cache is where, in use, and the next to go.
// Policy only: it owns nothing, locks nothing, reads nothing. The caller's
// lock guards it.
//
//     struct Table : LruItem { using LruItem::LruItem; ... };
//     Lru<Table> tables;
//
// Things that are pinned are no victims; the last unpin makes them the most
// recently used. An item is in one Lru at most, and must leave it (unpinned)
// before it ends.

#pragma once

#include <cstdint>
#include <vector>

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/unordered_set.hpp>

#include "core/base/invariant.h"

namespace qcow2 {

template <class Item>
class Lru;

class LruItem {
public:
    explicit LruItem(std::uint64_t key) : key_(key) {}

    std::uint64_t key() const { return key_; }
    bool pinned() const { return pins_ != 0; }

private:
    template <class Item>
    friend class Lru;

    using SafeLink = boost::intrusive::link_mode<boost::intrusive::safe_link>;

    const std::uint64_t key_;
    unsigned pins_ = 0;
    boost::intrusive::list_member_hook<SafeLink> in_list_;  // linked only if not pinned
    boost::intrusive::unordered_set_member_hook<SafeLink> in_set_;
};

template <class Item>
class Lru {
public:
    Lru() : buckets_(16), set_(Traits(buckets_.data(), buckets_.size())) {}
    Lru(const Lru &) = delete;
    Lru &operator=(const Lru &) = delete;
    ~Lru() { INVARIANT(set_.empty()); }

    std::size_t size() const { return set_.size(); }
    // How many could be victims.
    std::size_t unpinned() const { return list_.size(); }

    // nullptr if it is not there. Does not count as use.
    Item *find(std::uint64_t key)
    {
        const auto found = set_.find(key, Hash(), Equal());
        return found == set_.end() ? nullptr : &static_cast<Item &>(*found);
    }

    // As the most recently used. Its key is not there yet.
    void insert(Item &item)
    {
        INVARIANT(item.pins_ == 0);
        if (set_.size() >= buckets_.size())
            rehash(buckets_.size() * 2);
        const bool inserted = set_.insert(item).second;
        INVARIANT(inserted);
        list_.push_back(item);
    }

    // Not pinned.
    void erase(Item &item)
    {
        INVARIANT(item.pins_ == 0);
        list_.erase(list_.iterator_to(item));
        set_.erase(set_.iterator_to(item));
    }

    void pin(Item &item)
    {
        if (item.pins_++ == 0)
            list_.erase(list_.iterator_to(item));
    }

    void unpin(Item &item)
    {
        INVARIANT(item.pins_ != 0);
        if (--item.pins_ == 0)
            list_.push_back(item);
    }

    // Makes it the most recently used.
    void touch(Item &item)
    {
        if (item.pins_ == 0)
            list_.splice(list_.end(), list_, list_.iterator_to(item));
    }

    // The least recently used that is not pinned and of which clean(item) is
    // true; nullptr if there is none.
    template <class Predicate>
    Item *victim(Predicate clean)
    {
        for (LruItem &item : list_)
            if (clean(static_cast<Item &>(item)))
                return &static_cast<Item &>(item);
        return nullptr;
    }

private:
    struct Hash {
        std::size_t operator()(std::uint64_t key) const
        {
            // Keys are often multiples of a cluster; the buckets are chosen by
            // the low bits.
            const std::uint64_t spread = key * 0x9e3779b97f4a7c15u;
            return spread ^ (spread >> 32);
        }
        std::size_t operator()(const LruItem &item) const { return (*this)(item.key_); }
    };
    struct Equal {
        bool operator()(const LruItem &a, const LruItem &b) const { return a.key_ == b.key_; }
        bool operator()(std::uint64_t key, const LruItem &item) const { return key == item.key_; }
        bool operator()(const LruItem &item, std::uint64_t key) const { return key == item.key_; }
    };
    using List = boost::intrusive::list<
        LruItem,
        boost::intrusive::member_hook<LruItem, decltype(LruItem::in_list_), &LruItem::in_list_>>;
    using Set = boost::intrusive::unordered_set<
        LruItem,
        boost::intrusive::member_hook<LruItem, decltype(LruItem::in_set_), &LruItem::in_set_>,
        boost::intrusive::hash<Hash>, boost::intrusive::equal<Equal>,
        boost::intrusive::power_2_buckets<true>>;
    using Traits = typename Set::bucket_traits;

    void rehash(std::size_t count)
    {
        std::vector<typename Set::bucket_type> buckets(count);
        set_.rehash(Traits(buckets.data(), buckets.size()));
        buckets_ = std::move(buckets);
    }

    std::vector<typename Set::bucket_type> buckets_;
    Set set_;
    List list_;  // the unpinned ones, least recently used first
};

}  // namespace qcow2
