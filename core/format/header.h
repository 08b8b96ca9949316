// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The header: bytes <-> meaning. Pure; any thread.
//
// decode_header() checks what the header can be checked for alone (versions,
// ranges, alignments, sizes of tables, feature bits that no version of this
// engine knows). Which of the known features can be served is decided above.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <boost/endian/buffers.hpp>

#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/format/geometry.h"

namespace qcow2 {

namespace on_disk {

using u8 = std::uint8_t;
using be16 = boost::endian::big_uint16_buf_t;
using be32 = boost::endian::big_uint32_buf_t;
using be64 = boost::endian::big_uint64_buf_t;

// qcow2.rst, "Header".
struct Header {
    be32 magic;                    //   0 -   3
    be32 version;                  //   4 -   7
    be64 backing_file_offset;      //   8 -  15
    be32 backing_file_size;        //  16 -  19
    be32 cluster_bits;             //  20 -  23
    be64 size;                     //  24 -  31
    be32 crypt_method;             //  32 -  35
    be32 l1_size;                  //  36 -  39
    be64 l1_table_offset;          //  40 -  47
    be64 refcount_table_offset;    //  48 -  55
    be32 refcount_table_clusters;  //  56 -  59
    be32 nb_snapshots;             //  60 -  63
    be64 snapshots_offset;         //  64 -  71
    // version 3 only
    be64 incompatible_features;  //  72 -  79
    be64 compatible_features;    //  80 -  87
    be64 autoclear_features;     //  88 -  95
    be32 refcount_order;         //  96 -  99
    be32 header_length;          // 100 - 103
    // there if header_length says so
    u8 compression_type;  // 104
    u8 padding[7];        // 105 - 111
};
static_assert(sizeof(Header) == 112);
static_assert(offsetof(Header, incompatible_features) == 72);
static_assert(offsetof(Header, compression_type) == 104);

}  // namespace on_disk

namespace incompatible {
constexpr std::uint64_t dirty = 1 << 0;
constexpr std::uint64_t corrupt = 1 << 1;
constexpr std::uint64_t external_data_file = 1 << 2;
constexpr std::uint64_t compression_type = 1 << 3;
constexpr std::uint64_t extended_l2 = 1 << 4;
constexpr std::uint64_t known = 0x1f;
}  // namespace incompatible

namespace autoclear {
constexpr std::uint64_t bitmaps = 1 << 0;
constexpr std::uint64_t raw_external_data = 1 << 1;
constexpr std::uint64_t known = 0x3;
}  // namespace autoclear

constexpr std::uint32_t header_magic = 0x514649fb;
constexpr std::uint32_t header_length_v2 = 72;
constexpr std::uint32_t header_length_v3_min = 104;

struct Header {
    std::uint32_t version = 3;
    std::uint64_t backing_file_offset = 0;  // 0: none
    std::uint32_t backing_file_size = 0;    // bytes
    std::uint32_t cluster_bits = 16;
    std::uint64_t size = 0;  // bytes, as it stands in the file
    std::uint32_t crypt_method = 0;
    std::uint32_t l1_size = 0;  // entries
    HostOffset l1_table_offset;
    HostOffset refcount_table_offset;
    std::uint32_t refcount_table_clusters = 0;
    std::uint32_t nb_snapshots = 0;
    HostOffset snapshots_offset;
    std::uint64_t incompatible_features = 0;
    std::uint64_t compatible_features = 0;
    std::uint64_t autoclear_features = 0;
    std::uint32_t refcount_order = 4;
    std::uint32_t header_length = 112;  // bytes
    std::uint8_t compression_type = 0;

    Geometry geometry() const;

    // What NBD clients and bitmaps see: `size` rounded down to 512, as QEMU
    // does (core/README.md, "Where we differ").
    std::uint64_t disk_size() const { return size & ~std::uint64_t(511); }

    friend bool operator==(const Header &, const Header &) = default;
};

// Whether a file that begins so claims to be a qcow2 image.
bool has_magic(Bytes beginning);

// bytes: the beginning of the file, at least 112 bytes or all there is. The
// caller reads past the end as "not there", not as zeros.
Result<Header> decode_header(Bytes bytes);

// Puts the known fields into the beginning of a header that is there already;
// fields that we do not know stay as they are. bytes: header_length or more.
void encode_header(const Header &header, MutableBytes bytes);

// The first known feature that this engine cannot serve, if any: encryption.
std::optional<Error> unsupported_feature(const Header &header);

}  // namespace qcow2
