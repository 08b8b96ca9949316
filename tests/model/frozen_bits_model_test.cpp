// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FrozenBits against vector<bool>.

#include "core/bitmap/frozen_bits.h"

#include <vector>

#include "core/base/arith.h"
#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(frozen_bits_model)

namespace {

constexpr std::uint64_t word_bits = FrozenBits::word_bits;

// Words that are alike, a run of them or one, and gaps.
std::vector<std::uint64_t> some_words(std::uint64_t words, Random &random)
{
    std::vector<std::uint64_t> made;
    while (made.size() < words) {
        std::uint64_t value = 0;
        switch (random.below(4)) {
        case 0: value = ~std::uint64_t(0); break;
        case 1: value = std::uint64_t(1) << random.below(word_bits); break;
        case 2: value = random.below(~std::uint64_t(0)); break;
        }
        made.insert(made.end(), std::min(words - made.size(), random.between(1, 5)), value);
    }
    return made;
}

std::uint64_t next_in(const std::vector<bool> &model, std::uint64_t from, bool value)
{
    while (from < model.size() && model[from] != value)
        ++from;
    return from;
}

}  // namespace

BOOST_AUTO_TEST_CASE(equals_a_vector_of_bool, *one_thread())
{
    for (const std::uint64_t seed : seeds(100)) {
        Random random(seed);
        const std::uint64_t size = random.between(1, 3000);
        const std::vector<std::uint64_t> words = some_words(div_ceil(size, word_bits), random);
        FrozenBits bits(size);
        for (std::uint64_t number = 0; number < words.size(); ++number)
            bits.append(number, words[number]);  // what is behind the size, too
        std::vector<bool> model(size);
        std::uint64_t count = 0;
        for (std::uint64_t bit = 0; bit < size; ++bit) {
            model[bit] = words[bit / word_bits] >> bit % word_bits & 1;
            count += model[bit];
        }
        BOOST_REQUIRE_EQUAL(bits.size(), size);
        BOOST_REQUIRE_EQUAL(bits.count(), count);
        for (std::uint64_t from = 0; from <= size; ++from) {
            BOOST_REQUIRE_EQUAL(bits.next_set(from), next_in(model, from, true));
            BOOST_REQUIRE_EQUAL(bits.next_clear(from), next_in(model, from, false));
        }
    }
}

// More words than a run has.
BOOST_AUTO_TEST_CASE(long_runs)
{
    constexpr std::uint64_t words = 200'000, gap = 150'000;
    FrozenBits bits(words * word_bits - 3);
    for (std::uint64_t number = 0; number < words; ++number)
        bits.append(number, number == gap ? 0 : ~std::uint64_t(0));
    BOOST_TEST(bits.count() == (words - 1) * word_bits - 3);
    for (const std::uint64_t from :
         {std::uint64_t(0), word_bits * 65'535, word_bits * 65'536 + 1, word_bits * gap - 1}) {
        BOOST_TEST(bits.next_set(from) == from);
        BOOST_TEST(bits.next_clear(from) == gap * word_bits);
    }
    BOOST_TEST(bits.next_set(gap * word_bits) == (gap + 1) * word_bits);
    BOOST_TEST(bits.next_clear((gap + 1) * word_bits) == bits.size());
}

BOOST_AUTO_TEST_SUITE_END()
