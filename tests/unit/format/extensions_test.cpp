// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/extensions.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <ostream>

#include "tests/support/must.h"
#include "tests/unit/format/bytes_by_hand.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(extensions)

namespace {

Buffer text(const std::string &s) { return Buffer(s.begin(), s.end()); }

Header good_header()
{
    Header h;
    h.cluster_bits = 12;
    h.size = 1 << 20;
    h.l1_size = 1;
    h.l1_table_offset = HostOffset(0x3000);
    h.refcount_table_offset = HostOffset(0x1000);
    h.refcount_table_clusters = 1;
    return h;
}

Extension feature_names(std::size_t entries)
{
    Extension e{ExtensionType::feature_names, Buffer(entries * 48)};
    for (std::size_t i = 0; i < entries; ++i) {
        e.data[i * 48 + 1] = static_cast<std::uint8_t>(i);
        e.data[i * 48 + 2] = static_cast<std::uint8_t>('a' + i);
    }
    return e;
}

BitmapsExtension some_bitmaps() { return {1, 32, HostOffset(0x5000)}; }

Buffer encoded(const HeaderArea &area, Bytes old = {})
{
    auto bytes = encode_header_area(area, old);
    BOOST_REQUIRE_MESSAGE(bytes, said(bytes));
    return *std::move(bytes);
}

std::vector<ExtensionType> types(const std::vector<Extension> &extensions)
{
    std::vector<ExtensionType> t;
    for (const Extension &e : extensions)
        t.push_back(e.type);
    return t;
}

std::uint64_t encoded_size(const std::vector<Extension> &extensions)
{
    std::uint64_t size = 0;
    for (const Extension &e : extensions)
        size += e.encoded_size();
    return size;
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

BOOST_AUTO_TEST_CASE(round_trip_with_everything)
{
    HeaderArea area;
    area.header = good_header();
    area.extensions = {
        encode_bitmaps_extension(some_bitmaps()),
        {ExtensionType::backing_format, text("qcow2")},
        feature_names(3),
        {ExtensionType(0x12345678), text("unknown")},
        {ExtensionType(0x12345678), {}},  // unknown ones may come twice
    };
    area.backing_file_name = "base.qcow2";
    const Buffer bytes = encoded(area);
    BOOST_TEST(bytes.size() == 4096u);

    const auto decoded = decode_header_area(bytes);
    BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
    BOOST_TEST((decoded->extensions == area.extensions));
    BOOST_TEST(decoded->backing_file_name == "base.qcow2");
    // The name comes right behind the end record.
    BOOST_TEST(decoded->header.backing_file_offset == 112 + encoded_size(area.extensions) + 8);
    BOOST_TEST(decoded->header.backing_file_size == 10u);
    BOOST_TEST((decoded->find(ExtensionType::feature_names)->data.size() == 3 * 48u));
    BOOST_TEST(decoded->find(ExtensionType::luks) == nullptr);
    // And again it is the same.
    BOOST_TEST(encoded(*decoded, bytes) == bytes, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(header_fields_that_nobody_knows_survive)
{
    HeaderArea area;
    area.header = good_header();
    area.header.header_length = 128;
    area.extensions = {feature_names(1)};
    Buffer old(4096, 0xcc);
    const Buffer bytes = encoded(area, old);
    BOOST_TEST(std::all_of(bytes.begin() + 105, bytes.begin() + 128, [](int b) { return b == 0xcc; }));
    // Nothing else of the old cluster is left.
    BOOST_TEST(std::count(bytes.begin() + 128, bytes.end(), 0xcc) == 0);
    BOOST_TEST((decode_header_area(bytes)->extensions == area.extensions));
}

BOOST_AUTO_TEST_CASE(the_name_of_the_backing_file_keeps_its_place_if_it_can)
{
    HeaderArea area;
    area.header = good_header();
    area.header.backing_file_offset = 600;
    area.backing_file_name = "base";
    const Buffer bytes = encoded(area);
    auto decoded = decode_header_area(bytes);
    BOOST_REQUIRE(decoded);
    BOOST_TEST(decoded->header.backing_file_offset == 600u);
    BOOST_TEST(decoded->backing_file_name == "base");

    // Exactly up to it, without an end record: the place says where they end.
    area.extensions = {{ExtensionType(1), Buffer(600 - 112 - 8, 1)}};
    decoded = decode_header_area(encoded(area));
    BOOST_REQUIRE(decoded);
    BOOST_TEST(decoded->header.backing_file_offset == 600u);
    BOOST_TEST((decoded->extensions == area.extensions));

    area.extensions = {{ExtensionType(1), Buffer(600 - 112, 1)}};
    decoded = decode_header_area(encoded(area));
    BOOST_REQUIRE(decoded);
    BOOST_TEST(decoded->header.backing_file_offset == 616u);
    BOOST_TEST(decoded->backing_file_name == "base");
    BOOST_TEST((decoded->extensions == area.extensions));
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_no_space)
{
    HeaderArea area;
    area.header = good_header();
    area.extensions = {{ExtensionType(1), Buffer(4096 - 112 - 8)}};  // to the last byte
    BOOST_TEST((decode_header_area(encoded(area))->extensions == area.extensions));
    area.extensions[0].data.push_back(0);
    auto bytes = encode_header_area(area, {});
    BOOST_REQUIRE(!bytes);
    BOOST_TEST((bytes.error().code == Errc::no_space));

    area.extensions = {{ExtensionType(1), Buffer(4096 - 112 - 8 - 8 - 100)}};
    area.backing_file_name.assign(100, 'n');
    BOOST_TEST(encode_header_area(area, {}).has_value() == false);  // padding takes 4
    area.backing_file_name.assign(96, 'n');
    BOOST_TEST((decode_header_area(encoded(area))->backing_file_name == area.backing_file_name));
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

BOOST_AUTO_TEST_CASE(version_2_has_extensions_too)
{
    HeaderArea area;
    area.header = good_header();
    area.header.version = 2;
    area.header.header_length = 72;
    area.extensions = {{ExtensionType::backing_format, text("raw")}};
    area.backing_file_name = "base";
    const Buffer bytes = encoded(area);
    BOOST_TEST(load_be64(&bytes[72]) == 0xe2792aca00000003u);
    const auto decoded = decode_header_area(bytes);
    BOOST_REQUIRE_MESSAGE(decoded, said(decoded));
    BOOST_TEST((decoded->extensions == area.extensions));
}

BOOST_AUTO_TEST_CASE(extensions_that_run_past_their_area)
{
    HeaderArea area;
    area.header = good_header();
    area.extensions = {{ExtensionType(7), Buffer(8, 1)}};
    Buffer bytes = encoded(area);
    poke(bytes, 116, 4, 4096 - 120);  // just fits
    BOOST_TEST(decode_header_area(bytes).has_value());
    for (const std::uint32_t length : {4096u - 119, 0x80000000u, 0xffffffffu}) {
        poke(bytes, 116, 4, length);
        BOOST_TEST(is(decode_header_area(bytes), Finding::extension_truncated));
    }
    // The name of the backing file ends the area as well.
    area.backing_file_name = "base";
    area.header.backing_file_offset = 160;
    bytes = encoded(area);
    poke(bytes, 116, 4, 40);
    BOOST_TEST(decode_header_area(bytes).has_value());
    poke(bytes, 116, 4, 41);
    BOOST_TEST(is(decode_header_area(bytes), Finding::extension_truncated));
}

BOOST_AUTO_TEST_CASE(extensions_that_may_be_there_once)
{
    HeaderArea area;
    area.header = good_header();
    for (const ExtensionType type : {ExtensionType::bitmaps, ExtensionType::backing_format,
                                     ExtensionType::data_file, ExtensionType::luks}) {
        area.extensions = {{type, Buffer(24)}, feature_names(1), {type, Buffer(24)}};
        const auto decoded = decode_header_area(encoded(area));
        BOOST_TEST(is(decoded, Finding::extension_duplicate), said(decoded));
    }
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

// Bytes behind the end of the file are zeros, and zeros end the area.
BOOST_AUTO_TEST_CASE(a_file_that_ends_inside_the_header_cluster)
{
    HeaderArea area;
    area.header = good_header();
    area.extensions = {feature_names(2), encode_bitmaps_extension(some_bitmaps())};
    const Buffer bytes = encoded(area);
    const std::size_t end = 112 + encoded_size(area.extensions);
    for (std::size_t length = 0; length <= end + 16; ++length) {
        const auto decoded = decode_header_area(Bytes(bytes).first(length));
        // Between the records nothing is missing: all that is there is whole.
        const bool whole = length >= 112 && (length >= end || length == 112 || length == end - 32);
        BOOST_TEST(decoded.has_value() == whole, length << ": " << said(decoded));
        if (decoded && length >= end)
            BOOST_TEST((decoded->extensions == area.extensions));
    }
    // A name that is cut off.
    area.backing_file_name = "base";
    area.header.backing_file_offset = 1000;
    const Buffer with_name = encoded(area);
    BOOST_TEST(is(decode_header_area(Bytes(with_name).first(1003)),
                  Finding::backing_file_name_out_of_range));
    BOOST_TEST(decode_header_area(Bytes(with_name).first(1004))->backing_file_name == "base");
}

BOOST_AUTO_TEST_CASE(the_image_names_the_feature_that_nobody_knows)
{
    HeaderArea area;
    area.header = good_header();
    area.header.incompatible_features = std::uint64_t(1) << 5;
    area.extensions = {{ExtensionType(9), text("x")}, feature_names(7)};
    const auto decoded = decode_header_area(encoded(area));
    BOOST_TEST(is(decoded, Finding::incompatible_feature_unknown));
    BOOST_TEST(decoded.error().what ==
               "the image needs a feature that is not known (incompatible feature bit 5: 'f')");
    area.extensions.back().data[5 * 48 + 2] = 0x1b;
    BOOST_TEST(decode_header_area(encoded(area)).error().what ==
               "the image needs a feature that is not known (incompatible feature bit 5: $'\\x1b')");
    // Without a name the number must do.
    area.extensions = {feature_names(3)};
    BOOST_TEST(decode_header_area(encoded(area)).error().what ==
               "the image needs a feature that is not known (incompatible feature bit 5)");
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
    const auto once = with_bitmaps_extension(with_bitmaps_extension(before, some_bitmaps()), std::nullopt);
    BOOST_TEST(encoded_size(once) == encoded_size(before));
    BOOST_TEST(std::equal(before[0].data.begin(), before[0].data.end() - 32, once[0].data.begin()));
    BOOST_TEST((with_bitmaps_extension(with_bitmaps_extension(once, some_bitmaps()), std::nullopt) == once));
    // One that is whole beside a bitmaps extension (QEMU's) stays as it is.
    const auto qemu = with_bitmaps_extension({before[0], encode_bitmaps_extension(some_bitmaps())}, std::nullopt);
    BOOST_TEST((qemu[0] == before[0]));
}

BOOST_AUTO_TEST_CASE(H3_behind_a_gap)
{
    HeaderArea area;
    area.header = good_header();
    area.backing_file_name = "base";
    area.header.backing_file_offset = 1000;
    area.extensions = {encode_bitmaps_extension(some_bitmaps()), {ExtensionType(3), Buffer(600, 7)}, feature_names(8)};
    const HeaderArea moved = must(decode_header_area(encoded(behind_a_gap(area, 2048))));
    BOOST_TEST((types(moved.extensions) ==
                std::vector{ExtensionType::bitmaps, ExtensionType::feature_names, ExtensionType(3)}));
    BOOST_TEST(112 + moved.extensions[0].encoded_size() + moved.extensions[1].encoded_size() == 2048u);
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
