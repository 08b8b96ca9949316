// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/arith.h"

#include <boost/test/unit_test.hpp>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(arith)

namespace {
constexpr std::uint64_t max = ~std::uint64_t(0);
}  // namespace

BOOST_AUTO_TEST_CASE(div_ceil_does_not_overflow)
{
    BOOST_TEST(div_ceil(0, 7) == 0u);
    BOOST_TEST(div_ceil(1, 7) == 1u);
    BOOST_TEST(div_ceil(7, 7) == 1u);
    BOOST_TEST(div_ceil(8, 7) == 2u);
    BOOST_TEST(div_ceil(max, 1) == max);
    BOOST_TEST(div_ceil(max, 2) == std::uint64_t(1) << 63);
    BOOST_TEST(div_ceil(max, max) == 1u);
}

BOOST_AUTO_TEST_CASE(alignment)
{
    BOOST_TEST(align_down(0x1fff, 0x1000) == 0x1000u);
    BOOST_TEST(align_down(max, 0x1000) == max - 0xfff);
    BOOST_TEST(align_up(0, 8) == 0u);
    BOOST_TEST(align_up(1, 8) == 8u);
    BOOST_TEST(align_up(8, 8) == 8u);
    BOOST_TEST(is_aligned(0, 512));
    BOOST_TEST(is_aligned(1024, 512));
    BOOST_TEST(!is_aligned(1025, 512));
}

BOOST_AUTO_TEST_CASE(powers_of_two)
{
    BOOST_TEST(!is_power_of_two(0));
    BOOST_TEST(is_power_of_two(1));
    BOOST_TEST(!is_power_of_two(3000));
    BOOST_TEST(is_power_of_two(std::uint64_t(1) << 63));
}

BOOST_AUTO_TEST_CASE(checked_sums_and_products)
{
    BOOST_TEST(checked_add(max - 1, 1).value() == max);
    BOOST_TEST(!checked_add(max, 1).has_value());
    BOOST_TEST(checked_mul(std::uint64_t(1) << 32, (std::uint64_t(1) << 32) - 1).has_value());
    BOOST_TEST(!checked_mul(std::uint64_t(1) << 32, std::uint64_t(1) << 32).has_value());
}

BOOST_AUTO_TEST_CASE(fits_at_the_edges)
{
    BOOST_TEST(fits(0, 0, 0));
    BOOST_TEST(!fits(0, 1, 0));
    BOOST_TEST(fits(10, 0, 10));
    BOOST_TEST(!fits(11, 0, 10));
    BOOST_TEST(fits(4, 6, 10));
    BOOST_TEST(!fits(4, 7, 10));
    BOOST_TEST(!fits(max, max, max - 1));
    BOOST_TEST(!fits(1, max, max));
    BOOST_TEST(fits(0, max, max));
}

BOOST_AUTO_TEST_SUITE_END()
