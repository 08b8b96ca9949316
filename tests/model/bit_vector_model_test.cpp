// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// BitVector against vector<bool>.

#include "core/base/bit_vector.h"

#include <vector>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(bit_vector_model)

namespace {

std::uint64_t next_in(const std::vector<bool> &model, std::uint64_t from, bool value)
{
    while (from < model.size() && model[from] != value)
        ++from;
    return from;
}

void compare(const BitVector &bits, const std::vector<bool> &model, Random &random)
{
    std::uint64_t count = 0;
    for (std::uint64_t i = 0; i < model.size(); ++i) {
        BOOST_REQUIRE_EQUAL(bits.test(i), model[i]);
        BOOST_REQUIRE_EQUAL(bits.bytes()[i / 8] >> (i % 8) & 1, model[i]);
        count += model[i];
    }
    BOOST_REQUIRE_EQUAL(bits.count(), count);
    BOOST_REQUIRE_EQUAL(bits.all(), count == model.size());
    BOOST_REQUIRE_EQUAL(bits.none(), count == 0);
    const std::uint64_t from = random.below(model.size());
    BOOST_REQUIRE_EQUAL(bits.next_set(from), next_in(model, from, true));
    BOOST_REQUIRE_EQUAL(bits.next_clear(from), next_in(model, from, false));
    const Range range{from, random.between(from, model.size())};
    std::uint64_t in_range = 0;
    for (std::uint64_t i = range.begin; i < range.end; ++i)
        in_range += model[i];
    BOOST_REQUIRE_EQUAL(bits.count(range), in_range);
    BOOST_REQUIRE_EQUAL(bits.all(range), in_range == range.length());
    BOOST_REQUIRE_EQUAL(bits.none(range), in_range == 0);
}

}  // namespace

BOOST_AUTO_TEST_CASE(equals_a_vector_of_bool, *one_thread())
{
    for (const std::uint64_t seed : seeds(40)) {
        SEEDED(seed);
        Random random(seed);
        const std::uint64_t size = random.between(1, random.pick({10, 70, 700}));
        BitVector bits(size);
        std::vector<bool> model(size);
        for (int step = 0; step < 200; ++step) {
            const std::uint64_t begin = random.below(size);
            const Range range{begin, random.between(begin, size)};
            switch (random.below(4)) {
            case 0:
                bits.set(range);
                std::fill(model.begin() + range.begin, model.begin() + range.end, true);
                break;
            case 1:
                bits.clear(range);
                std::fill(model.begin() + range.begin, model.begin() + range.end, false);
                break;
            case 2: {
                BitVector other(size);
                other.set(range);
                bits.or_with(other);
                std::fill(model.begin() + range.begin, model.begin() + range.end, true);
                break;
            }
            case 3: {
                const std::uint64_t bytes = div_ceil(size, 8);
                const std::uint64_t offset = random.below(bytes);
                Buffer loaded(random.between(0, bytes - offset));
                for (auto &byte : loaded)
                    byte = random();
                bits.load(offset, loaded);
                for (std::uint64_t i = 0; i < loaded.size() * 8; ++i)
                    if (offset * 8 + i < size)
                        model[offset * 8 + i] = loaded[i / 8] >> (i % 8) & 1;
                break;
            }
            }
            compare(bits, model, random);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
