// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/cluster_mapping.h"

#include <vector>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "tests/unit/format/bytes_by_hand.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(cluster_mapping)

namespace {

Geometry with_cluster_bits(std::uint32_t cluster_bits) { return {3, cluster_bits, 4, false}; }
const Geometry v3 = with_cluster_bits(16);
const Geometry v2{2, 16, 4, false};
const Geometry extended{3, 16, 4, true};

constexpr std::uint64_t copied = std::uint64_t(1) << 63;
constexpr std::uint64_t compressed = std::uint64_t(1) << 62;

}  // namespace

BOOST_AUTO_TEST_CASE(the_table_of_meanings)
{
    const std::pair<std::uint64_t, ClusterMapping> table[] = {
        {0, Unallocated{}},
        {1, Zero{}},
        {0x50000, Data{HostOffset(0x50000), false}},
        {copied | 0x50000, Data{HostOffset(0x50000), true}},
        {0x50001, Zero{HostOffset(0x50000), false}},
        {copied | 0x50001, Zero{HostOffset(0x50000), true}},
        {0x00ffffffffff0000, Data{HostOffset(0x00ffffffffff0000), false}},
        {compressed | 0x50000, Compressed{HostOffset(0x50000), 512}},
    };
    for (const auto &[raw, mapping] : table) {
        const auto decoded = decode_l2_entry(raw, v3);
        BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
        BOOST_TEST((*decoded == mapping), raw);
        BOOST_TEST(encode_l2_entry(mapping, v3) == raw);
    }
}

BOOST_AUTO_TEST_CASE(runs_are_seen_by_the_words_alone)
{
    const auto run = [](std::vector<std::uint64_t> words, std::uint64_t host_end = 1 << 20) {
        Buffer bytes(words.size() * 8);
        for (std::size_t i = 0; i < words.size(); ++i)
            store_be64(&bytes[i * 8], words[i]);
        return run_of_entries(bytes, HostOffset(host_end), v3);
    };
    BOOST_TEST(run({0}) == 1u);
    BOOST_TEST(run({0, 0, 0, 1}) == 3u);
    BOOST_TEST(run({1, 1, 0x50001}) == 2u);
    BOOST_TEST(run({0x50000, 0x60000, 0x70000, 0x90000}) == 3u);
    BOOST_TEST(run({0x50000, 0x50000}) == 1u);
    BOOST_TEST(run({0x50000, 0}) == 1u);
    BOOST_TEST(run({copied | 0x50000, copied | 0x60000, 0x70000}) == 2u);
    BOOST_TEST(run({copied | 0x50001, copied | 0x60001, copied | 0x70000}) == 2u);
    // The same compressed cluster twice is no run of two.
    BOOST_TEST(run({compressed | 0x50000, compressed | 0x50000}) == 1u);
    // What lies behind the end is for decode() to tell.
    BOOST_TEST(run({0x50000, 0x60000, 0x70000}, 0x60200) == 2u);
    BOOST_TEST(run({0x50000, 0x60000, 0x70000}, 0x60000) == 1u);
    BOOST_TEST(run({0x00ffffffffff0000, 0x0100000000000000}, std::uint64_t(1) << 56) == 1u);
    // The first cluster of a data file is at 0; the second is not.
    BOOST_TEST(run({copied, copied}) == 1u);
}

BOOST_AUTO_TEST_CASE(bit_63_says_nothing_without_a_cluster)
{
    BOOST_TEST((*decode_l2_entry(copied, v3) == ClusterMapping(Unallocated{})));
    BOOST_TEST((*decode_l2_entry(copied | 1, v3) == ClusterMapping(Zero{})));
    BOOST_TEST(encode_l2_entry(Zero{HostOffset(0), true}, v3) == 1u);
}

// Its offset is 0: bit 63 alone says that it is there.
BOOST_AUTO_TEST_CASE(the_first_cluster_of_a_data_file)
{
    const Geometry beside{3, 16, 4, false, true}, beside_extended{3, 16, 4, true, true};
    BOOST_TEST((*decode_l2_entry(copied, beside) == ClusterMapping(Data{HostOffset(0), true})));
    BOOST_TEST(encode_l2_entry(Data{HostOffset(0), true}, beside) == copied);
    const ClusterMapping some_parts = Subclusters{HostOffset(0), true, 0x3, 0x30};
    const ExtendedL2Entry raw{copied, 0x30'00000003};
    BOOST_TEST((encode_extended_l2_entry(some_parts, beside_extended) == raw));
    const auto decoded = decode_extended_l2_entry(raw, beside_extended);
    BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
    BOOST_TEST((*decoded == some_parts));
    BOOST_TEST(is(decode_extended_l2_entry(raw, extended), Finding::l2_subclusters_wrong));
}

BOOST_DATA_TEST_CASE(each_bit_of_a_standard_entry, data::xrange(1u, 62u), n)
{
    const auto mapping = decode_l2_entry(0x50000 | std::uint64_t(1) << n, v3);
    if (n < 9 || n >= 56)
        BOOST_TEST(is(mapping, Finding::l2_entry_reserved_bits));
    else if (n < 16)
        BOOST_TEST(is(mapping, Finding::l2_entry_unaligned));
    else
        BOOST_TEST(mapping.has_value());
}

BOOST_AUTO_TEST_CASE(the_zero_flag_elsewhere)
{
    BOOST_TEST(is(decode_l2_entry(1, v2), Finding::l2_entry_zero_flag_in_v2));
    BOOST_TEST(is(decode_l2_entry(0x50001, v2), Finding::l2_entry_zero_flag_in_v2));
    BOOST_TEST(decode_l2_entry(0x50000, v2).has_value());
    BOOST_TEST(decode_l2_entry(0x50000, extended).has_value());
}

// It must be clear there, and QEMU does not look at it.
BOOST_AUTO_TEST_CASE(the_zero_flag_of_an_extended_entry_says_nothing)
{
    const auto decoded = decode_extended_l2_entry({copied | 0x50001, 0x30'00000003}, extended);
    BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
    BOOST_TEST((*decoded == ClusterMapping(Subclusters{HostOffset(0x50000), true, 0x3, 0x30})));
    BOOST_TEST((*decode_extended_l2_entry({1, 0}, extended) == ClusterMapping(Subclusters{})));
}

// The offset ends where the number of sectors begins, which depends on the
// size of a cluster.
BOOST_DATA_TEST_CASE(compressed_at_every_cluster_size, data::xrange(9u, 22u), cluster_bits)
{
    const Geometry g = with_cluster_bits(cluster_bits);
    const std::uint32_t x = 62 - (cluster_bits - 8);
    const std::uint64_t sectors_max = std::uint64_t(1) << (cluster_bits - 8);
    for (const std::uint64_t offset :
         {std::uint64_t(0x1000), std::uint64_t(0x12345), std::uint64_t(0x123ff)})
        for (const std::uint64_t sectors : {std::uint64_t(1), sectors_max}) {
            const std::uint64_t raw = compressed | (sectors - 1) << x | offset;
            const auto mapping = decode_l2_entry(raw, g);
            BOOST_REQUIRE_MESSAGE(mapping, said(mapping));
            const auto &c = std::get<Compressed>(*mapping);
            BOOST_TEST(c.host.value == offset);
            BOOST_TEST(c.host.value + c.bytes_max ==
                       (offset & ~std::uint64_t(511)) + sectors * 512);
            BOOST_TEST(encode_l2_entry(*mapping, g) == raw);
        }
    BOOST_TEST(
        is(decode_l2_entry(copied | compressed | 0x1000, g), Finding::l2_entry_compressed_copied));
    // Bits above 55 of the offset, where there are such.
    if (x > 56)
        BOOST_TEST(is(decode_l2_entry(compressed | std::uint64_t(1) << 56, g),
                      Finding::l2_entry_reserved_bits));
}

BOOST_AUTO_TEST_SUITE_END()
