// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/sparse_words.h"

#include <boost/test/unit_test.hpp>

#include <map>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(sparse_words)

BOOST_AUTO_TEST_CASE(against_a_map)
{
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        const std::uint64_t size = 1 + random.below(20000);
        SparseWords words(size);
        std::map<std::uint64_t, std::uint64_t> model;
        for (unsigned i = 0; i < 60; ++i) {
            const std::uint64_t index = random.below(size), word = random.below(3);
            words.set(index, word);
            model[index] = word;
            if (word == 0)
                model.erase(index);
        }
        SparseWords copy(words);
        copy.grow(size + 1000);
        std::uint64_t at = 0;
        for (const auto &[index, word] : model) {
            at = words.next_set(at);
            BOOST_TEST(at == index);
            BOOST_TEST(words[at] == word);
            BOOST_TEST(copy[at++] == word);
        }
        BOOST_TEST(words.next_set(at) == size);
        BOOST_TEST(copy.next_set(at) == size + 1000);
        BOOST_TEST(copy[size + 999] == 0u);
    }
}

BOOST_AUTO_TEST_SUITE_END()
