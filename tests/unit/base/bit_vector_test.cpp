// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/bit_vector.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <vector>

using namespace qcow2;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(bit_vector)

namespace {

// Around every place where a word or a byte ends.
const std::vector<std::uint64_t> sizes = {1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200};

}  // namespace

BOOST_AUTO_TEST_CASE(no_bits_at_all)
{
    BitVector bits(0);
    BOOST_TEST(bits.size() == 0u);
    BOOST_TEST(bits.count() == 0u);
    BOOST_TEST(bits.all());
    BOOST_TEST(bits.none());
    BOOST_TEST(bits.next_set(0) == 0u);
    BOOST_TEST(bits.next_clear(0) == 0u);
    BOOST_TEST(bits.bytes().size() == 0u);
    bits.load(0, {});
    bits.set(Range{0, 0});
}

BOOST_AUTO_TEST_CASE(bytes_are_in_the_order_of_the_disk)
{
    BitVector bits(20);
    bits.set(0);
    bits.set(9);
    bits.set(Range{16, 20});
    const Bytes bytes = bits.bytes();
    BOOST_REQUIRE(bytes.size() == 3u);
    BOOST_TEST(bytes[0] == 0x01);
    BOOST_TEST(bytes[1] == 0x02);
    BOOST_TEST(bytes[2] == 0x0f);
}

BOOST_DATA_TEST_CASE(a_full_vector_has_no_bits_behind_its_end, data::make(sizes), size)
{
    BitVector made(size, true);
    BitVector filled(size);
    filled.set(Range{0, size});
    BitVector loaded(size);
    loaded.load(0, Buffer(div_ceil(size, 8), 0xff));
    BOOST_TEST(made.count() == size);
    BOOST_TEST(made.all());
    BOOST_TEST(!made.none());
    BOOST_TEST(made.next_clear(0) == size);
    BOOST_TEST((made == filled));
    BOOST_TEST((made == loaded));
    const std::uint8_t last = made.bytes().back();
    BOOST_TEST(last == (size % 8 == 0 ? 0xff : (1 << size % 8) - 1));
}

BOOST_DATA_TEST_CASE(load_writes_only_its_bytes, data::make(sizes), size)
{
    BitVector bits(size, true);
    const Buffer zero(1, 0);
    for (std::uint64_t byte = 0; byte < div_ceil(size, 8); ++byte) {
        bits = BitVector(size, true);
        bits.load(byte, zero);
        const Range gone{byte * 8, std::min(size, byte * 8 + 8)};
        BOOST_TEST(bits.none(gone));
        BOOST_TEST(bits.count() == size - gone.length());
    }
}

BOOST_DATA_TEST_CASE(every_range_sets_and_clears_exactly_itself, data::make(sizes), size)
{
    for (std::uint64_t begin = 0; begin <= size; begin += 1 + begin % 3)
        for (std::uint64_t end = begin; end <= size; end += 1 + end % 5) {
            const Range range{begin, end};
            BitVector on(size), off(size, true);
            on.set(range);
            off.clear(range);
            BOOST_REQUIRE(on.count() == range.length());
            BOOST_REQUIRE(off.count() == size - range.length());
            BOOST_REQUIRE(on.all(range));
            BOOST_REQUIRE(off.none(range));
            BOOST_REQUIRE(on.next_set(0) == (range.empty() ? size : begin));
            BOOST_REQUIRE(off.next_clear(0) == (range.empty() ? size : begin));
            BOOST_REQUIRE(on.next_clear(begin) == (range.empty() ? begin : end));
            BOOST_REQUIRE(on.count({begin / 2, end}) == range.length());
            BOOST_REQUIRE(on.count({0, begin}) == 0u);
        }
}

BOOST_AUTO_TEST_CASE(all_and_none_look_only_at_their_range)
{
    BitVector bits(130);
    bits.set(Range{60, 70});
    BOOST_TEST(bits.all({60, 70}));
    BOOST_TEST(!bits.all({59, 70}));
    BOOST_TEST(!bits.all({60, 71}));
    BOOST_TEST(bits.none({0, 60}));
    BOOST_TEST(bits.none({70, 130}));
    BOOST_TEST(!bits.none({69, 130}));
    BOOST_TEST(bits.all({5, 5}));
    BOOST_TEST(bits.none({65, 65}));
}

BOOST_AUTO_TEST_CASE(or_with_joins)
{
    BitVector a(100), b(100);
    a.set(Range{10, 20});
    b.set(Range{15, 90});
    a.or_with(b);
    BOOST_TEST(a.count() == 80u);
    BOOST_TEST(a.all({10, 90}));
    BOOST_TEST(b.count() == 75u);
}

BOOST_AUTO_TEST_SUITE_END()
