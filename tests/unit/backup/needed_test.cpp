// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/needed.h"

#include <boost/test/unit_test.hpp>

#include "core/base/bit_vector.h"
#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(needed)

namespace {

constexpr std::uint64_t unit_blocks = NeededAroundBits::unit_bytes / block_bytes;

NeededAroundBits::Bits bits_of(const BitVector &bits, std::uint64_t granularity)
{
    return {granularity, bits.size(), [&bits](std::uint64_t bit, bool set) {
                return set ? bits.next_set(bit) : bits.next_clear(bit);
            }};
}

bool touched(const BitVector &bits, std::uint64_t granularity, Range bytes)
{
    const Range touched = intersection(bytes.touched(granularity), {0, bits.size()});
    return !touched.empty() && !bits.none(touched);
}

}  // namespace

BOOST_AUTO_TEST_CASE(each_64K_in_which_a_bit_is_set_is_needed)
{
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        const std::uint64_t size = random.between(1, 200) * 12345 / 512 * 512 + 512;
        std::vector<BitVector> bitmaps;
        std::vector<std::uint64_t> granularities;
        for (std::uint64_t n = random.between(1, 3); n > 0; --n) {
            granularities.push_back(
                random.pick<std::uint64_t>({512, 4096, 65536, 1 << 18, 1 << 21}));
            bitmaps.emplace_back(div_ceil(size, granularities.back()));
            for (std::uint64_t i = random.below(6); i > 0; --i) {
                const Range range =
                    random.range(bitmaps.back().size(), bitmaps.back().size() / 3 + 1, 8);
                bitmaps.back().set(range);
            }
        }
        std::vector<NeededAroundBits::Bits> bits;
        for (std::size_t i = 0; i < bitmaps.size(); ++i)
            bits.push_back(bits_of(bitmaps[i], granularities[i]));
        const NeededAroundBits needed(bits);
        const std::uint64_t blocks = div_ceil(size, block_bytes);
        const auto expected = [&](std::uint64_t block) {
            const Range unit = Range::of(block / unit_blocks * NeededAroundBits::unit_bytes,
                                         NeededAroundBits::unit_bytes);
            for (std::size_t i = 0; i < bitmaps.size(); ++i)
                if (touched(bitmaps[i], granularities[i], unit))
                    return true;
            return false;
        };
        for (Range left{random.below(blocks), blocks}; !left.empty();) {
            const Needed::Run run = needed.run(left);
            BOOST_REQUIRE(run.blocks >= 1);
            BOOST_REQUIRE(run.blocks <= left.length());
            for (std::uint64_t block = left.begin; block < left.begin + run.blocks; ++block)
                BOOST_REQUIRE_EQUAL(run.needed, expected(block));
            left.begin += run.blocks;
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
