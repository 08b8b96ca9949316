// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/header.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

// The fields as they stand, nothing checked but that they are there.
Result<Header> decode_fields(Bytes bytes)
{
    on_disk::Header raw{};
    std::copy_n(bytes.begin(), std::min(bytes.size(), sizeof raw),
                reinterpret_cast<std::uint8_t *>(&raw));

    if (!has_magic(bytes))
        return finding(Finding::not_qcow2);
    const std::string length = formatted("its length is {}", bytes.size());
    if (bytes.size() < 8)
        return finding(Finding::header_truncated, length);
    const std::uint32_t version = raw.version.value();
    if (version != 2 && version != 3)
        return finding(Finding::version_unknown, "it is {}{}", version,
                       version == 1
                           ? ", the older format qcow; 'qemu-img convert -f qcow -O qcow2' makes "
                             "a newer image of it"
                           : "");
    if (bytes.size() < (version == 2 ? header_length_v2 : header_length_v3_min))
        return finding(Finding::header_truncated, length);

    Header h;
    h.version = version;
    h.backing_file_offset = raw.backing_file_offset.value();
    h.backing_file_size = raw.backing_file_size.value();
    h.cluster_bits = raw.cluster_bits.value();
    h.size = raw.size.value();
    h.crypt_method = raw.crypt_method.value();
    h.l1_size = raw.l1_size.value();
    h.l1_table_offset = HostOffset(raw.l1_table_offset.value());
    h.refcount_table_offset = HostOffset(raw.refcount_table_offset.value());
    h.refcount_table_clusters = raw.refcount_table_clusters.value();
    h.nb_snapshots = raw.nb_snapshots.value();
    h.snapshots_offset = HostOffset(raw.snapshots_offset.value());
    if (version == 2) {
        h.refcount_order = 4;
        h.header_length = header_length_v2;
        return h;
    }
    h.incompatible_features = raw.incompatible_features.value();
    h.compatible_features = raw.compatible_features.value();
    h.autoclear_features = raw.autoclear_features.value();
    h.refcount_order = raw.refcount_order.value();
    h.header_length = raw.header_length.value();
    // A field is there if header_length reaches it.
    const std::size_t compression_at = offsetof(on_disk::Header, compression_type);
    if (h.header_length > compression_at) {
        if (bytes.size() <= compression_at)
            return finding(Finding::header_truncated, length);
        h.compression_type = raw.compression_type;
    }
    return h;
}

Result<void> check_features(const Header &h)
{
    if (const std::uint64_t unknown = h.incompatible_features & ~incompatible::known)
        return finding(Finding::incompatible_feature_unknown, "incompatible feature bit {}",
                       std::countr_zero(unknown));
    if (h.compression_type > 1)
        return finding(Finding::compression_type_unknown, "it is {}", h.compression_type);
    const bool bit = h.incompatible_features & incompatible::compression_type;
    if (bit != (h.compression_type != 0))
        return finding(Finding::compression_type_mismatch, "type {}, bit {:d}", h.compression_type,
                       bit);
    return {};
}

Result<void> check_geometry(const Header &h)
{
    const bool extended = h.incompatible_features & incompatible::extended_l2;
    const std::uint32_t min =
        extended ? limits::cluster_bits_min_extended : limits::cluster_bits_min;
    if (h.cluster_bits < min || h.cluster_bits > limits::cluster_bits_max)
        return finding(Finding::cluster_bits_out_of_range, "it is {}{}", h.cluster_bits,
                       extended ? formatted(", and extended L2 entries need {}", min) : "");
    if (h.refcount_order > limits::refcount_order_max)
        return finding(Finding::refcount_order_out_of_range, "it is {}", h.refcount_order);
    const std::uint64_t cluster_size = std::uint64_t(1) << h.cluster_bits;
    if (h.version >= 3 && (h.header_length < header_length_v3_min || h.header_length % 8 != 0 ||
                           h.header_length > cluster_size))
        return finding(Finding::header_length_wrong, "it is {}", h.header_length);
    // crypt_method 1 and 2 are features that we know; what else there may be
    // one day is encryption all the same.
    if (h.crypt_method > 2)
        return finding(Finding::encrypted, "crypt_method {}", h.crypt_method);
    return {};
}

Result<void> check_backing_file_name(const Header &h, const Geometry &g)
{
    if (h.backing_file_offset == 0)
        return {};
    // An offset without a name only ends the extensions.
    if (h.backing_file_size > limits::backing_file_size_max ||
        (h.backing_file_size != 0 && h.backing_file_offset < h.header_length) ||
        !fits(h.backing_file_offset, h.backing_file_size, g.cluster_size()))
        return finding(Finding::backing_file_name_out_of_range, "{} bytes at {:#x}",
                       h.backing_file_size, h.backing_file_offset);
    return {};
}

// A table of the header: aligned, and inside what 63 bits can say.
Result<void> check_place(HostOffset offset, std::uint64_t bytes, const Geometry &g,
                         Finding unaligned, Finding past_end)
{
    if (!g.is_aligned(offset))
        return finding(unaligned, "it is at {:#x}", offset.value);
    if (!fits(offset.value, bytes, std::uint64_t(1) << 63))
        return finding(past_end, "it is at {:#x}", offset.value);
    return {};
}

Result<void> check_tables(const Header &h, const Geometry &g)
{
    const std::uint64_t l1_bytes = std::uint64_t(h.l1_size) * 8;
    if (g.l1_entries_for(h.disk_size()) > limits::l1_bytes_max / 8)
        return finding(Finding::disk_size_too_large, "its size is {}", h.size);
    if (l1_bytes > limits::l1_bytes_max)
        return finding(Finding::l1_table_too_large, "{} entries", h.l1_size);
    TRY(check_place(h.l1_table_offset, l1_bytes, g, Finding::l1_table_unaligned,
                    Finding::l1_table_past_end));
    if (h.l1_size != 0 && h.l1_table_offset.value == 0)
        return finding(Finding::l1_table_missing);

    const std::uint64_t table_bytes = std::uint64_t(h.refcount_table_clusters) << h.cluster_bits;
    if (h.refcount_table_clusters == 0)
        return finding(Finding::refcount_table_empty);
    if (table_bytes > limits::refcount_table_bytes_max)
        return finding(Finding::refcount_table_too_large, "{} clusters", h.refcount_table_clusters);
    TRY(check_place(h.refcount_table_offset, table_bytes, g, Finding::refcount_table_unaligned,
                    Finding::refcount_table_past_end));
    if (h.refcount_table_offset.value == 0)
        return finding(Finding::refcount_table_missing);

    if (h.nb_snapshots > limits::snapshots_max)
        return finding(Finding::snapshot_count_too_large, "it has {}", h.nb_snapshots);
    TRY(check_place(h.snapshots_offset, sizeof(std::uint64_t), g, Finding::snapshot_table_unaligned,
                    Finding::snapshot_table_past_end));
    if (h.nb_snapshots != 0 && h.snapshots_offset.value == 0)
        return finding(Finding::tables_overlap, "the snapshot table lies over the header");
    return {};
}

}  // namespace

Geometry Header::geometry() const
{
    Geometry g;
    g.version = version;
    g.cluster_bits = cluster_bits;
    g.refcount_order = refcount_order;
    g.extended_l2 = incompatible_features & incompatible::extended_l2;
    g.data_file = incompatible_features & incompatible::external_data_file;
    return g;
}

bool has_magic(Bytes beginning)
{
    on_disk::be32 magic;
    if (beginning.size() < sizeof magic)
        return false;
    std::memcpy(&magic, beginning.data(), sizeof magic);
    return magic.value() == header_magic;
}

Result<Header> decode_header(Bytes bytes)
{
    Header h = TRY(decode_fields(bytes));
    TRY(check_features(h));
    TRY(check_geometry(h));
    const Geometry g = h.geometry();
    TRY(check_backing_file_name(h, g));
    TRY(check_tables(h, g));
    return h;
}

void encode_header(const Header &h, MutableBytes bytes)
{
    INVARIANT(bytes.size() >= h.header_length);
    INVARIANT(h.header_length >= (h.version == 2 ? header_length_v2 : header_length_v3_min));

    // What is there already stays where nothing of ours goes.
    on_disk::Header raw{};
    const std::size_t length = std::min<std::size_t>(h.header_length, sizeof raw);
    std::memcpy(&raw, bytes.data(), length);

    raw.magic = header_magic;
    raw.version = h.version;
    raw.backing_file_offset = h.backing_file_offset;
    raw.backing_file_size = h.backing_file_size;
    raw.cluster_bits = h.cluster_bits;
    raw.size = h.size;
    raw.crypt_method = h.crypt_method;
    raw.l1_size = h.l1_size;
    raw.l1_table_offset = h.l1_table_offset.value;
    raw.refcount_table_offset = h.refcount_table_offset.value;
    raw.refcount_table_clusters = h.refcount_table_clusters;
    raw.nb_snapshots = h.nb_snapshots;
    raw.snapshots_offset = h.snapshots_offset.value;
    if (h.version >= 3) {
        raw.incompatible_features = h.incompatible_features;
        raw.compatible_features = h.compatible_features;
        raw.autoclear_features = h.autoclear_features;
        raw.refcount_order = h.refcount_order;
        raw.header_length = h.header_length;
        raw.compression_type = h.compression_type;
    }
    std::memcpy(bytes.data(), &raw, length);
}

std::optional<Error> unsupported_feature(const Header &h)
{
    if (h.crypt_method != 0)
        return finding(Finding::encrypted, "crypt_method {}", h.crypt_method);
    return std::nullopt;
}

}  // namespace qcow2
