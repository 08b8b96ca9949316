// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Every maximum, and where it comes from: [F] the format, [Q] what QEMU 7.2
// opens, [O] ours. What we write stays inside all of them.

#pragma once

#include <cstdint>

namespace qcow2::limits {

constexpr std::uint32_t cluster_bits_min = 9;                        // [F]
constexpr std::uint32_t cluster_bits_max = 21;                       // [Q]
constexpr std::uint32_t cluster_bits_min_extended = 14;              // [F]
constexpr std::uint32_t refcount_order_max = 6;                      // [F]
constexpr std::uint64_t l1_bytes_max = 32 << 20;                     // [Q]
constexpr std::uint64_t refcount_table_bytes_max = 8 << 20;          // [Q]
constexpr std::uint64_t host_offset_end = std::uint64_t(1) << 56;    // [F] L1, L2, bitmaps
constexpr std::uint32_t backing_file_size_max = 1023;                // [F]
constexpr std::uint32_t snapshots_max = 65536;                       // [Q]
constexpr std::uint64_t snapshot_table_bytes_max = 64 << 20;         // [Q]
constexpr std::uint32_t snapshot_extra_data_max = 1024;              // [Q]
constexpr std::uint32_t bitmaps_max = 65535;                         // [Q]
constexpr std::uint64_t bitmap_directory_bytes_max = 65535u * 1024;  // [Q]
constexpr std::uint32_t bitmap_name_bytes_max = 1023;                // [Q]
constexpr std::uint32_t bitmap_granularity_bits_min = 9;             // [Q]
constexpr std::uint32_t bitmap_granularity_bits_max = 31;            // [Q]
constexpr std::uint64_t bitmap_data_bytes_max = 512 << 20;           // [Q] in whole clusters
constexpr std::uint64_t bitmap_table_entries_max = 0x8000000;        // [Q]
constexpr std::uint64_t sector = 512;                                // the only atom on disk

}  // namespace qcow2::limits
