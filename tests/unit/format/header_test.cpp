// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/header.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <ostream>

#include "tests/unit/format/bytes_by_hand.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(header)

namespace {

// A version 3 image of 1 GiB, laid out as by QEMU.
Header good()
{
    Header h;
    h.size = std::uint64_t(1) << 30;
    h.l1_size = 2;
    h.l1_table_offset = HostOffset(0x30000);
    h.refcount_table_offset = HostOffset(0x10000);
    h.refcount_table_clusters = 1;
    return h;
}

Header good_v2()
{
    Header h = good();
    h.version = 2;
    h.header_length = 72;
    return h;
}

Buffer encoded(const Header &h)
{
    Buffer bytes(512);
    encode_header(h, bytes);
    return bytes;
}

// One field made wrong.
struct Wrong {
    std::size_t offset;
    unsigned width;
    std::uint64_t value;
    Finding finding;
    friend std::ostream &operator<<(std::ostream &o, const Wrong &w)
    {
        return o << name_of(w.finding) << ": byte " << w.offset << " = " << w.value;
    }
};

const Wrong wrongs[] = {
    {0, 4, 0x514649fa, Finding::not_qcow2},
    {4, 4, 1, Finding::version_unknown},
    {4, 4, 4, Finding::version_unknown},
    {72, 8, 1 << 5, Finding::incompatible_feature_unknown},
    {72, 8, std::uint64_t(1) << 63, Finding::incompatible_feature_unknown},
    {104, 1, 2, Finding::compression_type_unknown},
    {104, 1, 1, Finding::compression_type_mismatch},
    {72, 8, 1 << 3, Finding::compression_type_mismatch},
    {20, 4, 8, Finding::cluster_bits_out_of_range},
    {20, 4, 22, Finding::cluster_bits_out_of_range},
    {20, 4, 0xffffffff, Finding::cluster_bits_out_of_range},
    {96, 4, 7, Finding::refcount_order_out_of_range},
    {96, 4, 0xffffffff, Finding::refcount_order_out_of_range},
    {100, 4, 0, Finding::header_length_wrong},
    {100, 4, 103, Finding::header_length_wrong},
    {100, 4, 113, Finding::header_length_wrong},
    {100, 4, 65544, Finding::header_length_wrong},
    {100, 4, 0xfffffff8, Finding::header_length_wrong},
    {32, 4, 3, Finding::encrypted},
    {8, 8, 65537, Finding::backing_file_name_out_of_range},
    {8, 8, ~std::uint64_t(0), Finding::backing_file_name_out_of_range},
    {24, 8, std::uint64_t(1) << 51 | 1 << 20, Finding::disk_size_too_large},
    {24, 8, ~std::uint64_t(0), Finding::disk_size_too_large},
    {36, 4, (4 << 20) + 1, Finding::l1_table_too_large},
    {36, 4, 0xffffffff, Finding::l1_table_too_large},
    {40, 8, 0x30200, Finding::l1_table_unaligned},
    {40, 8, 0x8000000000000000, Finding::l1_table_past_end},
    {40, 8, 0xffffffffffff0000, Finding::l1_table_past_end},
    {40, 8, 0, Finding::l1_table_missing},
    {48, 8, 0x10001, Finding::refcount_table_unaligned},
    {48, 8, 0xffffffffffff0000, Finding::refcount_table_past_end},
    {48, 8, 0, Finding::refcount_table_missing},
    {56, 4, 0, Finding::refcount_table_empty},
    {56, 4, 129, Finding::refcount_table_too_large},
    {56, 4, 0xffffffff, Finding::refcount_table_too_large},
    {60, 4, 65537, Finding::snapshot_count_too_large},
    {60, 4, 1, Finding::tables_overlap},  // at offset 0
    {64, 8, 0x20, Finding::snapshot_table_unaligned},
    {64, 8, 0xffffffffffff0000, Finding::snapshot_table_past_end},
};

}  // namespace

// qcow2-format: the worked example.
BOOST_AUTO_TEST_CASE(the_header_of_QEMU_7_2)
{
    const Buffer bytes = from_hex("514649fb 00000003 0000000000000000 00000000 00000010"
                                  "0000000040000000 00000000 00000002 0000000000030000"
                                  "0000000000010000 00000001 00000000 0000000000000000"
                                  "0000000000000000 0000000000000000 0000000000000001"
                                  "00000004 00000070 00 00000000000000");
    BOOST_REQUIRE(bytes.size() == 112u);
    const auto h = decode_header(bytes);
    BOOST_REQUIRE_MESSAGE(h, said(h));
    Header expected = good();
    expected.autoclear_features = autoclear::bitmaps;
    BOOST_TEST((*h == expected));

    Buffer again(112);
    encode_header(*h, again);
    BOOST_TEST(again == bytes, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(version_2_has_no_features_and_16_bit_refcounts)
{
    Buffer bytes = encoded(good_v2());
    // What stands behind the 72 bytes is not the header's.
    std::fill(bytes.begin() + 72, bytes.end(), 0xff);
    const auto h = decode_header(bytes);
    BOOST_REQUIRE_MESSAGE(h, said(h));
    BOOST_TEST((*h == good_v2()));
    BOOST_TEST(h->geometry().refcount_bits() == 16u);
    BOOST_TEST(h->geometry().version == 2u);

    bytes.resize(72);
    BOOST_TEST(decode_header(bytes).has_value());
}

BOOST_AUTO_TEST_CASE(encoding_keeps_what_it_does_not_know)
{
    Header h = good();
    h.header_length = 136;
    Buffer bytes(512, 0xee);
    encode_header(h, bytes);
    BOOST_TEST(std::all_of(bytes.begin() + 105, bytes.end(), [](int b) { return b == 0xee; }));
    // A header that ends before the compression type has none.
    h.header_length = 104;
    Buffer shorter(512, 0xee);
    encode_header(h, shorter);
    BOOST_TEST(shorter[104] == 0xee);
    BOOST_TEST(decode_header(shorter)->compression_type == 0);
    // And version 2 ends at 72.
    Buffer v2(512, 0xee);
    encode_header(good_v2(), v2);
    BOOST_TEST(v2[72] == 0xee);
}

BOOST_DATA_TEST_CASE(every_length_that_is_too_short, data::xrange(0, 112), length)
{
    const Buffer bytes = encoded(good());
    const auto h = decode_header(Bytes(bytes).first(static_cast<std::size_t>(length)));
    BOOST_TEST(is(h, length < 4 ? Finding::not_qcow2 : Finding::header_truncated) == (length < 105),
               length << ": " << said(h));
}

BOOST_DATA_TEST_CASE(every_length_of_version_2_that_is_too_short, data::xrange(0, 72), length)
{
    const Buffer bytes = encoded(good_v2());
    BOOST_TEST(!decode_header(Bytes(bytes).first(static_cast<std::size_t>(length))));
}

BOOST_DATA_TEST_CASE(one_field_wrong, data::make(wrongs), wrong)
{
    Buffer bytes = encoded(good());
    poke(bytes, wrong.offset, wrong.width, wrong.value);
    const auto h = decode_header(bytes);
    BOOST_TEST(is(h, wrong.finding), said(h));
}

BOOST_AUTO_TEST_CASE(the_message_names_the_place)
{
    Buffer bytes = encoded(good());
    poke(bytes, 40, 8, 0x30200);
    BOOST_TEST(decode_header(bytes).error().what ==
               "the L1 table is not cluster aligned (it is at 0x30200)");
    bytes = encoded(good());
    poke(bytes, 72, 8, 1 << 9);
    BOOST_TEST(decode_header(bytes).error().what ==
               "the image needs a feature that is not known (incompatible feature bit 9)");
    bytes = encoded(good());
    poke(bytes, 20, 4, 12);
    poke(bytes, 72, 8, incompatible::extended_l2);
    BOOST_TEST(
        decode_header(bytes).error().what ==
        "cluster_bits is out of range (9 to 21) (it is 12, and extended L2 entries need 14)");
    bytes = encoded(good());
    poke(bytes, 100, 4, 108);
    BOOST_TEST(decode_header(bytes).error().what ==
               "header_length is out of range: a multiple of 8 from 104 "
               "to the cluster size (it is 108)");
}

BOOST_AUTO_TEST_CASE(limits_are_inside)
{
    for (const std::uint32_t cluster_bits : {9u, 21u}) {
        Header h = good();
        h.cluster_bits = cluster_bits;
        h.l1_table_offset = HostOffset(3 << 21);
        h.refcount_table_offset = HostOffset(1 << 21);
        h.refcount_table_clusters = (8 << 20) >> cluster_bits;
        // 32 MiB of L1 table reach exactly this far.
        h.l1_size = 4 << 20;
        h.size = std::uint64_t(h.l1_size) * h.geometry().l2_reach();
        auto decoded = decode_header(encoded(h));
        BOOST_TEST(decoded.has_value(), said(decoded));
        h.size += 511;  // rounded down
        decoded = decode_header(encoded(h));
        BOOST_TEST(decoded.has_value(), said(decoded));
        h.size += 1;
        BOOST_TEST(is(decode_header(encoded(h)), Finding::disk_size_too_large));
    }
}

BOOST_AUTO_TEST_CASE(a_disk_of_no_bytes_has_no_l1_table)
{
    Header h = good();
    h.size = 0;
    h.l1_size = 0;
    h.l1_table_offset = HostOffset(0);
    BOOST_TEST(decode_header(encoded(h)).has_value());
}

// QEMU refuses this one; we can serve it.
BOOST_AUTO_TEST_CASE(a_small_l1_table_is_no_error_here)
{
    Header h = good();
    h.l1_size = 1;
    BOOST_TEST(decode_header(encoded(h)).has_value());
}

BOOST_AUTO_TEST_CASE(extended_l2_needs_larger_clusters)
{
    Header h = good();
    h.incompatible_features = incompatible::extended_l2;
    BOOST_TEST(decode_header(encoded(h))->geometry().extended_l2);
    h.cluster_bits = 14;
    BOOST_TEST(decode_header(encoded(h)).has_value());
    h.cluster_bits = 13;
    BOOST_TEST(is(decode_header(encoded(h)), Finding::cluster_bits_out_of_range));
}

BOOST_AUTO_TEST_CASE(the_disk_is_rounded_down_to_sectors)
{
    Header h = good();
    h.size = 1048476;
    BOOST_TEST(decode_header(encoded(h))->size == 1048476u);
    BOOST_TEST(decode_header(encoded(h))->disk_size() == 1048064u);
}

BOOST_AUTO_TEST_CASE(the_name_of_the_backing_file)
{
    Header h = good();
    h.backing_file_offset = 65536 - 1023;
    h.backing_file_size = 1023;
    BOOST_TEST(decode_header(encoded(h)).has_value());
    h.backing_file_size = 1024;
    BOOST_TEST(is(decode_header(encoded(h)), Finding::backing_file_name_out_of_range));
    h.backing_file_size = 1023;
    ++h.backing_file_offset;
    BOOST_TEST(is(decode_header(encoded(h)), Finding::backing_file_name_out_of_range));
    h.backing_file_offset = 111;  // inside the header
    BOOST_TEST(is(decode_header(encoded(h)), Finding::backing_file_name_out_of_range));
    // Without an offset the size says nothing.
    h.backing_file_offset = 0;
    h.backing_file_size = 0xffffffff;
    BOOST_TEST(decode_header(encoded(h)).has_value());
}

BOOST_AUTO_TEST_CASE(features_that_cannot_be_served)
{
    BOOST_TEST(!unsupported_feature(good()).has_value());
    const auto says = [](const Header &h, Finding f) {
        const auto error = unsupported_feature(h);
        return error && error->code == Errc::unsupported &&
               error->what.find(sentence_of(f)) != std::string::npos;
    };
    Header h = good();
    h.crypt_method = 2;
    BOOST_TEST(decode_header(encoded(h)).has_value());
    BOOST_TEST(says(h, Finding::encrypted));
    for (const std::uint64_t bit : {incompatible::dirty, incompatible::corrupt,
                                    incompatible::external_data_file, incompatible::extended_l2}) {
        h = good();
        h.incompatible_features = bit;
        BOOST_TEST(!unsupported_feature(h).has_value());
    }
}

BOOST_AUTO_TEST_SUITE_END()
