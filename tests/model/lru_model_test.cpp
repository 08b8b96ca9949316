// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lru against a plain list in the order of use and a map of pins.

#include "core/base/lru.h"

#include <list>
#include <map>
#include <memory>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(lru_model)

namespace {

struct Thing : LruItem {
    using LruItem::LruItem;
    bool dirty = false;
};

struct Model {
    std::list<std::uint64_t> order;  // of all, least recently used first
    std::map<std::uint64_t, unsigned> pins;

    void use(std::uint64_t key)
    {
        order.remove(key);
        order.push_back(key);
    }
};

}  // namespace

BOOST_AUTO_TEST_CASE(equals_a_list_and_a_map)
{
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        Lru<Thing> lru;
        Model model;
        std::map<std::uint64_t, std::unique_ptr<Thing>> things;
        const std::uint64_t keys = random.between(1, 60);
        const std::vector<unsigned> weights = {
            unsigned(random.between(1, 9)), unsigned(random.between(1, 9)),
            unsigned(random.between(1, 9)), unsigned(random.between(1, 9)),
            unsigned(random.between(1, 9)), unsigned(random.between(1, 9))};
        for (int step = 0; step < 2000; ++step) {
            const std::uint64_t key = random.below(keys) << 16;
            Thing *found = lru.find(key);
            BOOST_REQUIRE_EQUAL(found != nullptr, things.count(key) == 1);
            switch (random.weighted(weights)) {
            case 0:
                if (!found) {
                    things[key] = std::make_unique<Thing>(key);
                    lru.insert(*things[key]);
                    model.use(key);
                }
                break;
            case 1:
                if (found && model.pins[key] == 0) {
                    lru.erase(*found);
                    things.erase(key);
                    model.order.remove(key);
                }
                break;
            case 2:
                if (found) {
                    lru.pin(*found);
                    ++model.pins[key];
                }
                break;
            case 3:
                if (found && model.pins[key] != 0) {
                    lru.unpin(*found);
                    if (--model.pins[key] == 0)
                        model.use(key);
                }
                break;
            case 4:
                if (found) {
                    lru.touch(*found);
                    if (model.pins[key] == 0)
                        model.use(key);
                }
                break;
            case 5:
                if (found)
                    found->dirty = !found->dirty;
                break;
            }
            Thing *expected = nullptr;
            for (const std::uint64_t candidate : model.order)
                if (model.pins[candidate] == 0 && !things[candidate]->dirty) {
                    expected = things[candidate].get();
                    break;
                }
            BOOST_REQUIRE_EQUAL(lru.victim([](const Thing &t) { return !t.dirty; }), expected);
            BOOST_REQUIRE_EQUAL(lru.size(), things.size());
        }
        for (auto &[key, thing] : things) {
            while (thing->pinned())
                lru.unpin(*thing);
            lru.erase(*thing);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
