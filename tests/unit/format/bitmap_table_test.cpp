// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/bitmap_table.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <string>

using namespace qcow2;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(bitmap_table)

namespace {

constexpr std::uint64_t K = 1 << 10, M = 1 << 20, G = 1 << 30, T = std::uint64_t(1) << 40;

Geometry with_cluster_bits(std::uint32_t cluster_bits) { return {3, cluster_bits, 4, false}; }

}  // namespace

BOOST_AUTO_TEST_CASE(bits_bytes_and_entries)
{
    struct {
        std::uint64_t disk_size;
        std::uint32_t granularity_bits, cluster_bits;
        BitmapSize size;
    } const table[] = {
        {0, 16, 16, {0, 0, 0}},
        {1, 16, 16, {1, 1, 1}},
        {64 * K, 16, 16, {1, 1, 1}},
        {64 * K + 512, 16, 16, {2, 1, 1}},
        {9 * 64 * K, 16, 16, {9, 2, 1}},
        {1 * G, 16, 16, {16384, 2048, 1}},
        {32 * G, 16, 16, {524288, 65536, 1}},
        {32 * G + 512, 16, 16, {524289, 65537, 2}},
        {40000 * M, 16, 16, {640000, 80000, 2}},  // as measured with QEMU
        {1 * M, 9, 9, {2048, 256, 1}},
        {3 * M, 9, 9, {6144, 768, 2}},
        {~std::uint64_t(0),
         9,
         9,
         {std::uint64_t(1) << 55, std::uint64_t(1) << 52, std::uint64_t(1) << 43}},
    };
    for (const auto &line : table) {
        const BitmapSize size = BitmapSize::of(line.disk_size, line.granularity_bits,
                                               with_cluster_bits(line.cluster_bits));
        BOOST_TEST(size.bits == line.size.bits);
        BOOST_TEST(size.data_bytes == line.size.data_bytes);
        BOOST_TEST(size.table_entries == line.size.table_entries);
    }
}

BOOST_AUTO_TEST_CASE(what_QEMU_would_take)
{
    const Geometry g = with_cluster_bits(16);
    BOOST_TEST(check_bitmap_limits(512, 9, g).has_value());
    BOOST_TEST(check_bitmap_limits(2 * T, 9, g).has_value());
    BOOST_TEST(check_bitmap_limits(256 * T, 16, g).has_value());
    BOOST_TEST(check_bitmap_limits(G, 31, g).has_value());
    BOOST_TEST(!check_bitmap_limits(0, 16, g));
    BOOST_TEST(!check_bitmap_limits(G, 8, g));
    BOOST_TEST(!check_bitmap_limits(G, 32, g));
    BOOST_TEST(!check_bitmap_limits(G, 0xffffffff, g));
}

BOOST_AUTO_TEST_CASE(the_error_names_a_granularity_that_would_do)
{
    const Geometry g = with_cluster_bits(16);
    const auto result = check_bitmap_limits(4 * T, 9, g);
    BOOST_REQUIRE(!result);
    BOOST_TEST((result.error().code == Errc::invalid));
    BOOST_TEST(result.error().what.find("granularity 1024 would do") != std::string::npos,
               result.error().what);
    BOOST_TEST(check_bitmap_limits(4 * T, 10, g).has_value());
    BOOST_TEST(check_bitmap_limits(2 * T + 512, 9, g).error().what.find("granularity 1024") !=
               std::string::npos);
}

// As measured: the cluster size, but 4K to 64K.
BOOST_AUTO_TEST_CASE(the_default_granularity)
{
    for (std::uint32_t cluster_bits = 9; cluster_bits <= 21; ++cluster_bits) {
        const std::uint32_t expected = cluster_bits < 12   ? 12
                                       : cluster_bits > 16 ? 16
                                                           : cluster_bits;
        BOOST_TEST(default_granularity_bits(with_cluster_bits(cluster_bits)) == expected);
    }
}

BOOST_AUTO_TEST_SUITE_END()
