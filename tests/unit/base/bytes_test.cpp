// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/bytes.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace qcow2;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(bytes)

BOOST_AUTO_TEST_CASE(sub_cuts_inside_its_span)
{
    Buffer buffer{1, 2, 3, 4};
    BOOST_TEST(sub(Bytes(buffer), 1, 2)[0] == 2);
    BOOST_TEST(sub(Bytes(buffer), 1, 2).size() == 2u);
    BOOST_TEST(sub(Bytes(buffer), 4, 0).empty());
    sub(MutableBytes(buffer), 3, 1)[0] = 9;
    BOOST_TEST(buffer[3] == 9);
}

// Wherever the one byte lies, at lengths around those that are treated apart.
BOOST_DATA_TEST_CASE(all_zero_sees_every_byte, data::make({0, 1, 2, 15, 16, 17, 31, 32, 33, 100}),
                     size)
{
    Buffer buffer(static_cast<std::size_t>(size));
    BOOST_TEST(all_zero(buffer));
    for (std::uint8_t &byte : buffer) {
        byte = 0x80;
        BOOST_TEST(!all_zero(buffer));
        byte = 0;
    }
}

BOOST_AUTO_TEST_CASE(words_are_big_endian_and_need_no_alignment)
{
    Buffer buffer(9);
    store_be64(&buffer[1], 0x0102030405060708);
    const Buffer expected{0, 1, 2, 3, 4, 5, 6, 7, 8};
    BOOST_TEST(buffer == expected, boost::test_tools::per_element());
    BOOST_TEST(load_be64(&buffer[1]) == 0x0102030405060708u);
}

BOOST_AUTO_TEST_SUITE_END()
