// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/compression.h"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <zlib.h>
#include <zstd.h>

#include <random>

#include "tests/unit/format/bytes_by_hand.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(compression)

namespace {

Buffer compressed(CompressionType type, Bytes cluster)
{
    Buffer out(cluster.size() * 2 + 1000);
    if (type == CompressionType::zstd) {
        const std::size_t n =
            ZSTD_compress(out.data(), out.size(), cluster.data(), cluster.size(), 3);
        BOOST_REQUIRE(!ZSTD_isError(n));
        out.resize(n);
        return out;
    }
    z_stream stream{};
    BOOST_REQUIRE(deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9,
                               Z_DEFAULT_STRATEGY) == Z_OK);
    stream.next_in = const_cast<Bytef *>(cluster.data());
    stream.avail_in = static_cast<uInt>(cluster.size());
    stream.next_out = out.data();
    stream.avail_out = static_cast<uInt>(out.size());
    BOOST_REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    return out;
}

Buffer some_cluster(std::size_t size)
{
    std::mt19937 draw(7);
    Buffer cluster(size);
    for (std::uint8_t &byte : cluster)
        byte = static_cast<std::uint8_t>('a' + draw() % 8);
    return cluster;
}

const auto types = data::make({0, 1});

}  // namespace

BOOST_DATA_TEST_CASE(what_was_compressed_comes_out_again,
                     types *data::make({512, 4096, 65536, 2 << 20}), number, size)
{
    const auto type = CompressionType(number);
    for (const Buffer &cluster : {some_cluster(static_cast<std::size_t>(size)),
                                  Buffer(static_cast<std::size_t>(size), 0)}) {
        Buffer bytes = compressed(type, cluster);
        Buffer out(cluster.size(), 0xee);
        auto result = decompress(type, bytes, out);
        BOOST_REQUIRE_MESSAGE(result, said(result));
        BOOST_REQUIRE((out == cluster));
        // What stands behind it in the last sector is somebody else's.
        bytes.insert(bytes.end(), 300, 0xff);
        out.assign(cluster.size(), 0xee);
        result = decompress(type, bytes, out);
        BOOST_REQUIRE_MESSAGE(result, said(result));
        BOOST_REQUIRE((out == cluster));
    }
}

BOOST_DATA_TEST_CASE(a_stream_that_is_cut_is_corrupt, types, number)
{
    const auto type = CompressionType(number);
    const Buffer cluster = some_cluster(4096);
    const Buffer bytes = compressed(type, cluster);
    Buffer out(cluster.size());
    for (std::size_t length = 0; length + 16 < bytes.size(); length += 7) {
        const auto result = decompress(type, Bytes(bytes).first(length), out);
        BOOST_REQUIRE_MESSAGE(!result, length << " of " << bytes.size());
        BOOST_TEST((result.error().code == Errc::corrupt));
    }
}

BOOST_DATA_TEST_CASE(a_stream_of_less_than_a_cluster_is_corrupt, types, number)
{
    const auto type = CompressionType(number);
    const Buffer bytes = compressed(type, some_cluster(2048));
    Buffer out(4096);
    const auto result = decompress(type, bytes, out);
    BOOST_REQUIRE(!result);
    BOOST_TEST((result.error().code == Errc::corrupt));
}

BOOST_DATA_TEST_CASE(damage_does_no_harm, types, number)
{
    const auto type = CompressionType(number);
    const Buffer bytes = compressed(type, some_cluster(4096));
    std::mt19937 draw(static_cast<unsigned>(number));
    Buffer out(4096);
    for (int round = 0; round < 500; ++round) {
        Buffer damaged = bytes;
        for (int n = 0; n < 3; ++n)
            damaged[draw() % damaged.size()] ^= static_cast<std::uint8_t>(1u << draw() % 8);
        const auto result = decompress(type, damaged, out);
        BOOST_TEST((result || result.error().code == Errc::corrupt));
    }
}

BOOST_AUTO_TEST_SUITE_END()
