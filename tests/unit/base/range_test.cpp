// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/range.h"

#include <boost/test/unit_test.hpp>

#include <utility>
#include <vector>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(range)

BOOST_AUTO_TEST_CASE(lengths_and_emptiness)
{
    BOOST_TEST((Range::of(10, 5) == Range{10, 15}));
    BOOST_TEST(Range::of(10, 5).length() == 5u);
    BOOST_TEST(Range::of(10, 0).empty());
    BOOST_TEST(Range{}.empty());
}

BOOST_AUTO_TEST_CASE(neighbours_do_not_overlap)
{
    const Range range{10, 20};
    BOOST_TEST(!range.overlaps({0, 10}));
    BOOST_TEST(range.overlaps({0, 11}));
    BOOST_TEST(range.overlaps({19, 30}));
    BOOST_TEST(!range.overlaps({20, 30}));
    BOOST_TEST(range.overlaps({12, 13}));
    BOOST_TEST(range.contains({10, 20}));
    BOOST_TEST(!range.contains({10, 21}));
    BOOST_TEST(!range.contains({9, 20}));
}

BOOST_AUTO_TEST_CASE(words_of_bits)
{
    const auto words = [](Range bits) {
        std::vector<std::pair<std::uint64_t, std::uint64_t>> words;
        for_each_word(
            bits, [&](std::uint64_t word, std::uint64_t mask) { words.emplace_back(word, mask); });
        return words;
    };
    using Words = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
    constexpr std::uint64_t all = ~std::uint64_t(0);
    BOOST_CHECK((words({5, 5}) == Words{}));
    BOOST_CHECK((words({0, 64}) == Words{{0, all}}));
    BOOST_CHECK((words({63, 65}) == Words{{0, std::uint64_t(1) << 63}, {1, 1}}));
    BOOST_CHECK((words({65, 67}) == Words{{1, 6}}));
    BOOST_CHECK((words({64, 200}) == Words{{1, all}, {2, all}, {3, 0xff}}));
}

BOOST_AUTO_TEST_CASE(granules_touched)
{
    BOOST_TEST((Range{}.touched(512) == Range{0, 0}));
    BOOST_TEST((Range{600, 600}.touched(512).empty()));
    BOOST_TEST((Range{0, 1}.touched(512) == Range{0, 1}));
    BOOST_TEST((Range{511, 513}.touched(512) == Range{0, 2}));
    BOOST_TEST((Range{512, 1024}.touched(512) == Range{1, 2}));
    // The last byte that there can be.
    const std::uint64_t max = ~std::uint64_t(0);
    BOOST_TEST((Range{max - 1, max}.touched(512) == Range{max / 512, max / 512 + 1}));
}

BOOST_AUTO_TEST_CASE(granules_covered_wholly)
{
    BOOST_TEST((Range{0, 511}.whole(512).empty()));
    BOOST_TEST((Range{0, 512}.whole(512) == Range{0, 1}));
    BOOST_TEST((Range{1, 1024}.whole(512) == Range{1, 2}));
    BOOST_TEST((Range{1, 1023}.whole(512).empty()));
    BOOST_TEST((Range{513, 514}.whole(512).length() == 0u));
}

BOOST_AUTO_TEST_CASE(intersections)
{
    BOOST_TEST((intersection({0, 10}, {5, 20}) == Range{5, 10}));
    BOOST_TEST((intersection({0, 10}, {10, 20}).empty()));
    BOOST_TEST((intersection({0, 10}, {15, 20}).length() == 0u));
    BOOST_TEST((intersection({0, 100}, {15, 20}) == Range{15, 20}));
}

BOOST_AUTO_TEST_SUITE_END()
