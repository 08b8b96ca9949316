// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/bitmap_directory.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <ostream>

#include "tests/unit/format/bytes_by_hand.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(bitmap_directory)

namespace {

const Geometry geometry;

BitmapDirectoryEntry plain(const std::string &name, std::uint32_t flags = bitmap_flags::auto_)
{
    BitmapDirectoryEntry e;
    e.bitmap_table_offset = HostOffset(0x40000);
    e.bitmap_table_size = 1;
    e.flags = flags;
    e.name = name;
    return e;
}

std::optional<Finding> finding_of(const BitmapDirectoryEntry &entry)
{
    std::vector<BitmapDirectoryEntry> entries{entry};
    const Buffer bytes = encode_bitmap_directory(entries);
    const auto decoded = decode_bitmap_directory(bytes, 1, geometry);
    BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
    return decoded->at(0).finding;
}

// One field of the record made wrong.
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
    {0, 8, 0, Finding::bitmap_table_missing},
    {0, 8, 0x40200, Finding::bitmap_table_unaligned},
    {0, 8, 0xffffffffffff0000, Finding::bitmap_table_past_end},
    {8, 4, 0, Finding::bitmap_table_size_wrong},
    {8, 4, 8193, Finding::bitmap_table_size_wrong},  // 512 MiB of 64K clusters are 8192
    {8, 4, 0xffffffff, Finding::bitmap_table_size_wrong},
    {12, 4, 1 << 3, Finding::bitmap_flags_reserved},
    {12, 4, 0x80000002, Finding::bitmap_flags_reserved},
    {16, 1, 0, Finding::bitmap_type_unknown},
    {16, 1, 2, Finding::bitmap_type_unknown},
    {17, 1, 8, Finding::bitmap_granularity_out_of_range},
    {17, 1, 32, Finding::bitmap_granularity_out_of_range},
    {17, 1, 255, Finding::bitmap_granularity_out_of_range},
};

}  // namespace

// qcow2-format: the worked example.
BOOST_AUTO_TEST_CASE(the_directory_of_QEMU_7_2)
{
    const Buffer bytes = from_hex("0000000000040000 00000001 00000002 01 10 0002 00000000"
                                  "6230 000000000000");
    auto entries = decode_bitmap_directory(bytes, 1, geometry);
    BOOST_REQUIRE_MESSAGE(entries, said(entries));
    BOOST_REQUIRE(entries->size() == 1u);
    const BitmapDirectoryEntry &e = entries->at(0);
    BOOST_TEST((e == plain("b0")));
    BOOST_TEST(e.enabled());
    BOOST_TEST(!e.in_use());
    BOOST_TEST(e.granularity() == 65536u);
    BOOST_TEST(e.flags_position() == 12u);
    BOOST_TEST(encode_bitmap_directory(*entries) == bytes, boost::test_tools::per_element());
}

// Names of 3, 8, 9 bytes: records of 32, 32, 40.
BOOST_AUTO_TEST_CASE(records_are_padded_to_8)
{
    std::vector<BitmapDirectoryEntry> entries{plain("abc"), plain("abcdefgh"), plain("abcdefghi")};
    const Buffer bytes = encode_bitmap_directory(entries);
    BOOST_TEST(bytes.size() == 104u);
    BOOST_TEST(entries[1].position == 32u);
    BOOST_TEST(entries[2].position == 64u);
    const auto decoded = decode_bitmap_directory(bytes, 3, geometry);
    BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
    BOOST_TEST((*decoded == entries));
}

BOOST_AUTO_TEST_CASE(no_bitmaps_are_no_bytes)
{
    std::vector<BitmapDirectoryEntry> none;
    BOOST_TEST(encode_bitmap_directory(none).empty());
    BOOST_TEST(decode_bitmap_directory({}, 0, geometry)->empty());
}

BOOST_DATA_TEST_CASE(one_field_wrong, data::make(wrongs), wrong)
{
    std::vector<BitmapDirectoryEntry> entries{plain("b0"), plain("b1")};
    Buffer bytes = encode_bitmap_directory(entries);
    // In the second: the first stays sound. Also if it is in_use.
    for (const std::uint32_t in_use : {0u, 1u}) {
        Buffer changed = bytes;
        changed[32 + 15] |= static_cast<std::uint8_t>(in_use);
        poke(changed, 32 + wrong.offset, wrong.width, wrong.value);
        const auto decoded = decode_bitmap_directory(changed, 2, geometry);
        BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
        BOOST_TEST(!decoded->at(0).finding);
        BOOST_TEST((decoded->at(1).finding == wrong.finding));
    }
}

BOOST_AUTO_TEST_CASE(limits_are_inside)
{
    BitmapDirectoryEntry e = plain("b0");
    e.bitmap_table_size = 8192;
    BOOST_TEST(!finding_of(e));
    e.granularity_bits = 9;
    BOOST_TEST(!finding_of(e));
    e.granularity_bits = 31;
    BOOST_TEST(!finding_of(e));
    BOOST_TEST(!finding_of(plain(std::string(1023, 'n'))));
    BOOST_TEST((finding_of(plain(std::string(1024, 'n'))) == Finding::bitmap_name_size_wrong));
    BOOST_TEST((finding_of(plain(std::string(65535, 'n'))) == Finding::bitmap_name_size_wrong));
    BOOST_TEST((finding_of(plain("")) == Finding::bitmap_name_size_wrong));
    BOOST_TEST(!finding_of(plain(std::string("a\0b", 3))));
}

BOOST_AUTO_TEST_CASE(extra_data_stand_before_the_name_and_survive)
{
    BitmapDirectoryEntry e = plain("b0");
    e.extra_data = from_hex("0102030405");
    BOOST_TEST((finding_of(e) == Finding::bitmap_extra_data_unknown));
    e.flags |= bitmap_flags::extra_data_compatible;
    BOOST_TEST(!finding_of(e));
    std::vector<BitmapDirectoryEntry> entries{e, plain("b1")};
    const Buffer bytes = encode_bitmap_directory(entries);
    BOOST_TEST(bytes[24] == 1);
    BOOST_TEST(bytes[29] == 'b');
    BOOST_TEST((*decode_bitmap_directory(bytes, 2, geometry) == entries));
}

// QEMU reads it, and so do we; check() has a finding for it.
BOOST_AUTO_TEST_CASE(padding_that_is_not_zero_passes)
{
    std::vector<BitmapDirectoryEntry> entries{plain("b0")};
    Buffer bytes = encode_bitmap_directory(entries);
    bytes[31] = 1;
    const auto decoded = decode_bitmap_directory(bytes, 1, geometry);
    BOOST_REQUIRE(decoded);
    BOOST_TEST(!decoded->at(0).finding);
}

BOOST_AUTO_TEST_CASE(names_that_are_there_twice)
{
    const auto second = [](std::uint32_t first_flags, std::uint32_t second_flags) {
        std::vector<BitmapDirectoryEntry> entries{plain("b", first_flags),
                                                  plain("b", second_flags)};
        const Buffer bytes = encode_bitmap_directory(entries);
        const auto decoded = decode_bitmap_directory(bytes, 2, geometry);
        BOOST_TEST(!decoded->at(0).finding);
        return decoded->at(1).finding;
    };
    BOOST_TEST((second(2, 2) == Finding::bitmap_name_duplicate));
    BOOST_TEST((second(3, 2) == Finding::bitmap_name_duplicate));
    // QEMU passes over a second one that cannot be used anyhow.
    BOOST_TEST(!second(2, 3));
    BOOST_TEST(!second(3, 3));
}

BOOST_AUTO_TEST_CASE(records_that_cannot_be_told_apart)
{
    std::vector<BitmapDirectoryEntry> entries{plain("b0"), plain("a longer name")};
    Buffer bytes = encode_bitmap_directory(entries);
    for (std::size_t length = 0; length < bytes.size(); ++length)
        BOOST_TEST(is(decode_bitmap_directory(Bytes(bytes).first(length), 2, geometry),
                      Finding::bitmap_directory_entry_truncated));
    BOOST_TEST(
        is(decode_bitmap_directory(bytes, 1, geometry), Finding::bitmap_directory_trailing_bytes));
    BOOST_TEST(
        is(decode_bitmap_directory(bytes, 3, geometry), Finding::bitmap_directory_entry_truncated));
    BOOST_TEST(is(decode_bitmap_directory(bytes, 0xffffffff, geometry),
                  Finding::bitmap_directory_entry_truncated));
    Buffer changed = bytes;
    poke(changed, 20, 4, 0xffffffff);
    BOOST_TEST(is(decode_bitmap_directory(changed, 2, geometry),
                  Finding::bitmap_directory_entry_truncated));
    poke(changed, 20, 4, 0xfffffff0);
    BOOST_TEST(is(decode_bitmap_directory(changed, 2, geometry),
                  Finding::bitmap_directory_entry_truncated));
}

// A directory of zeros, as a lost page leaves it: records without names.
BOOST_AUTO_TEST_CASE(a_directory_of_zeros)
{
    const auto decoded = decode_bitmap_directory(Buffer(48), 2, geometry);
    BOOST_REQUIRE(decoded);
    BOOST_TEST((decoded->at(0).finding == Finding::bitmap_table_missing));
    BOOST_TEST((decoded->at(1).finding == Finding::bitmap_table_missing));
}

BOOST_AUTO_TEST_SUITE_END()
