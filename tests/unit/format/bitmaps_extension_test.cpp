// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The bitmaps extension, and its place among the others.

#include "tests/unit/format/header_area.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <ostream>

#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(extensions)

namespace {

std::vector<ExtensionType> types(const std::vector<Extension> &extensions)
{
    std::vector<ExtensionType> t;
    for (const Extension &e : extensions)
        t.push_back(e.type);
    return t;
}

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

const Wrong wrong_bitmaps[] = {
    {0, 4, 0, Finding::bitmap_count_wrong},
    {0, 4, 65536, Finding::bitmap_count_wrong},
    {0, 4, 0xffffffff, Finding::bitmap_count_wrong},
    {4, 4, 1, Finding::bitmaps_extension_reserved},
    {8, 8, 0, Finding::bitmap_directory_size_wrong},
    {8, 8, 16, Finding::bitmap_directory_size_wrong},
    {8, 8, 33, Finding::bitmap_directory_size_wrong},
    {8, 8, 65535 * 1024 + 8, Finding::bitmap_directory_size_wrong},
    {8, 8, ~std::uint64_t(7), Finding::bitmap_directory_size_wrong},
    {16, 8, 0x5200, Finding::bitmap_directory_unaligned},
    {16, 8, 0xfffffffffffff000, Finding::bitmap_directory_past_end},
    {16, 8, 0, Finding::tables_overlap},
};

}  // namespace

// qcow2-format: the worked example.
BOOST_AUTO_TEST_CASE(the_bitmaps_extension_of_QEMU_7_2)
{
    const Buffer bytes = from_hex("00000001 00000000 0000000000000020 0000000000050000");
    const auto e = decode_bitmaps_extension(bytes, Geometry());
    BOOST_REQUIRE_MESSAGE(e, said(e));
    BOOST_TEST((*e == BitmapsExtension{1, 32, HostOffset(0x50000)}));
    const Extension again = encode_bitmaps_extension(*e);
    BOOST_TEST((again.type == ExtensionType::bitmaps));
    BOOST_TEST(again.data == bytes, boost::test_tools::per_element());
    BOOST_TEST(again.encoded_size() == 32u);
}

BOOST_DATA_TEST_CASE(bitmaps_extension_with_one_field_wrong, data::make(wrong_bitmaps), wrong)
{
    Buffer bytes = encode_bitmaps_extension(some_bitmaps()).data;
    poke(bytes, wrong.offset, wrong.width, wrong.value);
    const auto e = decode_bitmaps_extension(bytes, good_header().geometry());
    BOOST_TEST(is(e, wrong.finding), said(e));
}

BOOST_DATA_TEST_CASE(bitmaps_extension_of_any_other_length, data::make({0, 16, 23, 25, 32}), length)
{
    BOOST_TEST(is(decode_bitmaps_extension(Buffer(static_cast<std::size_t>(length)), Geometry()),
                  Finding::bitmaps_extension_length_wrong));
}

// Else it could not open the image for writing.
BOOST_AUTO_TEST_CASE(with_bitmaps_there_is_room_for_an_empty_record_of_qemu)
{
    HeaderArea area;
    area.header = good_header();
    const std::uint64_t room = 4096 - 112 - 32 - 8 - 8;
    area.extensions = {encode_bitmaps_extension({1, 32, HostOffset(0x10000)}),
                       {ExtensionType(1), Buffer(room)}};
    BOOST_TEST((decode_header_area(encoded(area))->extensions == area.extensions));
    area.extensions[1].data.resize(room + 8);  // to the last byte
    const auto bytes = encode_header_area(area, {});
    BOOST_REQUIRE(!bytes);
    BOOST_TEST((bytes.error().code == Errc::no_space));

    // The name right behind them, or where it was: QEMU puts it elsewhere.
    area.extensions[1].data.resize(room - 16);
    area.backing_file_name.assign(16, 'n');
    BOOST_TEST((decode_header_area(encoded(area))->backing_file_name == area.backing_file_name));
    area.extensions[1].data.resize(room - 8);
    area.header.backing_file_offset = 4096 - 16;
    BOOST_TEST(!encode_header_area(area, {}).has_value());
}

BOOST_AUTO_TEST_CASE(a_bitmaps_extension_of_the_old_text)
{
    HeaderArea area;
    area.header = good_header();
    area.extensions = {{ExtensionType::bitmaps, Buffer(16)}};
    // The disk can be had without its bitmaps.
    const auto decoded = decode_header_area(encoded(area));
    BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
    BOOST_TEST((decoded->extensions == area.extensions));
    BOOST_TEST(is(decode_bitmaps_extension(area.extensions[0].data, area.header.geometry()),
                  Finding::bitmaps_extension_length_wrong));
}

BOOST_AUTO_TEST_CASE(H2_the_bitmaps_extension_comes_first)
{
    const std::vector<Extension> before{{ExtensionType::backing_format, text("raw")},
                                        encode_bitmaps_extension({5, 160, HostOffset(0x1000)}),
                                        feature_names(8),
                                        {ExtensionType(3), text("u")}};
    const auto after = with_bitmaps_extension(before, some_bitmaps());
    BOOST_TEST((types(after) == std::vector{ExtensionType::bitmaps, ExtensionType::backing_format,
                                            ExtensionType::feature_names, ExtensionType(3)}));
    BOOST_TEST((after[0] == encode_bitmaps_extension(some_bitmaps())));
    BOOST_TEST((after[2] == before[2]));
    BOOST_TEST(encoded_size(after) == encoded_size(before));
    // The second time nothing moves.
    BOOST_TEST((with_bitmaps_extension(after, some_bitmaps()) == after));
}

BOOST_AUTO_TEST_CASE(H2_a_first_one_takes_its_room_from_the_feature_names)
{
    std::vector<Extension> before{feature_names(8), {ExtensionType(3), text("u")}};
    auto after = with_bitmaps_extension(before, some_bitmaps());
    BOOST_TEST((types(after) == std::vector{ExtensionType::bitmaps, ExtensionType::feature_names,
                                            ExtensionType(3)}));
    BOOST_TEST(after[1].data.size() == 8 * 48u - 32u);
    BOOST_TEST(std::equal(after[1].data.begin(), after[1].data.end(), before[0].data.begin()));
    BOOST_TEST(encoded_size(after) == encoded_size(before));

    before = {feature_names(1)};
    after = with_bitmaps_extension(before, some_bitmaps());
    BOOST_TEST((types(after) == std::vector{ExtensionType::bitmaps, ExtensionType::feature_names}));
    BOOST_TEST(after[1].data.size() == 16u);

    before = {{ExtensionType(3), text("u")}};
    after = with_bitmaps_extension(before, some_bitmaps());
    BOOST_TEST((types(after) == std::vector{ExtensionType::bitmaps, ExtensionType(3)}));
}

// However often bitmaps come and go: nothing behind the table moves, and names are
// lost once, not each time.
BOOST_AUTO_TEST_CASE(H2_the_feature_names_get_their_room_back)
{
    const std::vector<Extension> before{feature_names(8), {ExtensionType(3), text("u")}};
    const auto once =
        with_bitmaps_extension(with_bitmaps_extension(before, some_bitmaps()), std::nullopt);
    BOOST_TEST(encoded_size(once) == encoded_size(before));
    BOOST_TEST(std::equal(before[0].data.begin(), before[0].data.end() - 32, once[0].data.begin()));
    BOOST_TEST((with_bitmaps_extension(with_bitmaps_extension(once, some_bitmaps()),
                                       std::nullopt) == once));
    // One that is whole beside a bitmaps extension (QEMU's) stays as it is.
    const auto qemu =
        with_bitmaps_extension({before[0], encode_bitmaps_extension(some_bitmaps())}, std::nullopt);
    BOOST_TEST((qemu[0] == before[0]));
}

BOOST_AUTO_TEST_CASE(H3_behind_a_gap)
{
    HeaderArea area;
    area.header = good_header();
    area.backing_file_name = "base";
    area.header.backing_file_offset = 1000;
    area.extensions = {encode_bitmaps_extension(some_bitmaps()),
                       {ExtensionType(3), Buffer(600, 7)},
                       feature_names(8)};
    const HeaderArea moved = must(decode_header_area(encoded(behind_a_gap(area, 2048))));
    BOOST_TEST(
        (types(moved.extensions) ==
         std::vector{ExtensionType::bitmaps, ExtensionType::feature_names, ExtensionType(3)}));
    BOOST_TEST(112 + moved.extensions[0].encoded_size() + moved.extensions[1].encoded_size() ==
               2048u);
    BOOST_TEST(std::equal(area.extensions[2].data.begin(), area.extensions[2].data.end(),
                          moved.extensions[1].data.begin()));
    BOOST_TEST((moved.extensions[2] == area.extensions[1]));
    BOOST_TEST(moved.backing_file_name == "base");
    BOOST_TEST(moved.header.backing_file_offset == 2048 + 8 + 600 + 8u);
}

BOOST_AUTO_TEST_CASE(H4_the_extension_goes)
{
    const std::vector<Extension> before{feature_names(2), encode_bitmaps_extension(some_bitmaps())};
    BOOST_TEST((with_bitmaps_extension(before, std::nullopt) == std::vector{feature_names(2)}));
    BOOST_TEST(with_bitmaps_extension({}, std::nullopt).empty());
}

BOOST_AUTO_TEST_SUITE_END()
