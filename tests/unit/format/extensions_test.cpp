// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What stands in the header cluster: the extensions behind the header, and the name of the
// backing file.

#include "core/format/extensions.h"

#include <boost/test/unit_test.hpp>

#include <algorithm>

#include "tests/unit/format/header_area.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(extensions)

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
    BOOST_TEST(
        std::all_of(bytes.begin() + 105, bytes.begin() + 128, [](int b) { return b == 0xcc; }));
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
    BOOST_TEST(
        decode_header_area(encoded(area)).error().what ==
        "the image needs a feature that is not known (incompatible feature bit 5: $'\\x1b')");
    // Without a name the number must do.
    area.extensions = {feature_names(3)};
    BOOST_TEST(decode_header_area(encoded(area)).error().what ==
               "the image needs a feature that is not known (incompatible feature bit 5)");
}

BOOST_AUTO_TEST_SUITE_END()
