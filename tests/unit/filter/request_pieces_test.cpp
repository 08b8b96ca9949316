// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/request_pieces.h"

#include <boost/test/unit_test.hpp>

#include "core/base/arith.h"

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(pieces_test)

// Every range of every small layer: the pieces follow each other without a gap,
// and the layer likes each of them.
BOOST_AUTO_TEST_CASE(pieces_cover_the_range_and_obey_the_limits)
{
    for (const std::uint64_t minimum : {1, 2, 4}) {
        for (const std::uint64_t maximum : {minimum, 2 * minimum, 100 * minimum}) {
            for (std::uint64_t size = 1; size <= 17; ++size) {
                for (Range rest, whole{0, 0}; whole.begin < size;
                     whole.end < size ? ++whole.end : whole.end = ++whole.begin) {
                    std::uint64_t at = whole.begin;
                    for (rest = whole; !rest.empty(); rest.begin = at) {
                        const Piece piece = first_piece(rest, {minimum, maximum}, size);
                        BOOST_REQUIRE_EQUAL(piece.data.begin, at);
                        BOOST_REQUIRE(!piece.data.empty() && whole.contains(piece.data));
                        BOOST_REQUIRE(piece.io.contains(piece.data) && piece.io.end <= size);
                        BOOST_REQUIRE(is_aligned(piece.io.begin, minimum));
                        BOOST_REQUIRE(is_aligned(piece.io.end, minimum) || piece.io.end == size);
                        BOOST_REQUIRE_LE(piece.io.length(), maximum);
                        BOOST_REQUIRE(piece.whole() || piece.io.length() <= minimum);
                        at = piece.data.end;
                    }
                    BOOST_REQUIRE_EQUAL(at, whole.end);
                }
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(a_large_aligned_request_is_few_pieces)
{
    const Piece piece = first_piece({512, 10 << 20}, {512, 4 << 20}, 16 << 20);
    BOOST_CHECK(piece.whole());
    BOOST_CHECK(piece.io == (Range{512, 512 + (4 << 20)}));
}

BOOST_AUTO_TEST_CASE(a_large_request_is_cut_where_a_sector_ends)
{
    const Piece piece = first_piece({1000, 10 << 20}, {1, 4 << 20}, 16 << 20);
    BOOST_CHECK(piece.whole());
    BOOST_CHECK(piece.io == (Range{1000, (4 << 20) + 512}));
    BOOST_CHECK(first_piece({1000, 2000}, {1, 100}, 4096).io == (Range{1000, 1024}));
    BOOST_CHECK(first_piece({1025, 2000}, {1, 100}, 4096).io == (Range{1025, 1125}));
}

BOOST_AUTO_TEST_SUITE_END()
