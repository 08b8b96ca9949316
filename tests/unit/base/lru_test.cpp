// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/lru.h"

#include <boost/test/unit_test.hpp>

#include <memory>
#include <vector>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(lru)

namespace {

struct Thing : LruItem {
    using LruItem::LruItem;
    bool dirty = false;
};

const auto clean = [](const Thing &thing) { return !thing.dirty; };

// Three things, used in the order 1, 2, 3; leaves the list as it ends.
struct Three {
    Three()
    {
        lru.insert(one);
        lru.insert(two);
        lru.insert(three);
    }
    ~Three()
    {
        lru.erase(one);
        lru.erase(two);
        lru.erase(three);
    }

    Lru<Thing> lru;
    Thing one{1}, two{2}, three{3};
};

}  // namespace

BOOST_AUTO_TEST_CASE(finds_what_was_inserted_and_nothing_else)
{
    Three t;
    BOOST_TEST(t.lru.find(2) == &t.two);
    BOOST_TEST(t.lru.find(4) == nullptr);
    BOOST_TEST(t.lru.size() == 3u);
}

BOOST_AUTO_TEST_CASE(the_least_recently_used_goes_first)
{
    Three t;
    BOOST_TEST(t.lru.victim(clean) == &t.one);
    t.lru.touch(t.one);
    BOOST_TEST(t.lru.victim(clean) == &t.two);
}

BOOST_AUTO_TEST_CASE(find_is_no_use)
{
    Three t;
    BOOST_TEST(t.lru.find(1) == &t.one);
    BOOST_TEST(t.lru.victim(clean) == &t.one);
}

BOOST_AUTO_TEST_CASE(a_pinned_thing_is_no_victim)
{
    Three t;
    t.lru.pin(t.one);
    t.lru.pin(t.one);
    BOOST_TEST(t.one.pinned());
    BOOST_TEST(t.lru.find(1) == &t.one);
    t.lru.touch(t.one);
    BOOST_TEST(t.lru.victim(clean) == &t.two);
    t.lru.unpin(t.one);
    BOOST_TEST(t.lru.victim(clean) == &t.two);
    t.lru.unpin(t.one);
    // The last unpin was a use.
    BOOST_TEST(!t.one.pinned());
    t.lru.touch(t.two);
    t.lru.touch(t.three);
    BOOST_TEST(t.lru.victim(clean) == &t.one);
}

BOOST_AUTO_TEST_CASE(a_dirty_thing_is_passed_over_and_keeps_its_place)
{
    Three t;
    t.one.dirty = true;
    BOOST_TEST(t.lru.victim(clean) == &t.two);
    t.one.dirty = false;
    BOOST_TEST(t.lru.victim(clean) == &t.one);
}

BOOST_AUTO_TEST_CASE(no_victim_if_all_are_pinned_or_dirty)
{
    Three t;
    t.one.dirty = true;
    t.lru.pin(t.two);
    t.lru.pin(t.three);
    BOOST_TEST(t.lru.victim(clean) == nullptr);
    t.lru.unpin(t.two);
    t.lru.unpin(t.three);
    BOOST_TEST(t.lru.victim(clean) == &t.two);
}

// More than the first set of buckets holds, with keys as cluster offsets are.
BOOST_AUTO_TEST_CASE(thousands_are_found_after_the_table_grew)
{
    Lru<Thing> lru;
    std::vector<std::unique_ptr<Thing>> things;
    for (std::uint64_t i = 0; i < 5000; ++i) {
        things.push_back(std::make_unique<Thing>(i << 21));
        lru.insert(*things.back());
    }
    BOOST_TEST(lru.size() == 5000u);
    for (const auto &thing : things)
        BOOST_REQUIRE(lru.find(thing->key()) == thing.get());
    for (const auto &thing : things) {
        BOOST_REQUIRE(lru.victim(clean) == thing.get());
        lru.erase(*thing);
        BOOST_REQUIRE(lru.find(thing->key()) == nullptr);
    }
    BOOST_TEST(lru.size() == 0u);
}

BOOST_AUTO_TEST_SUITE_END()
