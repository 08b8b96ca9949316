// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ImageBuilder: qcow2 images in memory, made without QEMU: from what they are
// to be, to bytes. `qemu-img check` finds nothing in them (a test says so).

#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/format/bitmap_directory.h"
#include "core/format/extensions.h"
#include "tests/support/memory_store.h"
#include "tests/support/random.h"
#include "tests/support/reference_disk.h"

namespace qcow2::test {

enum class Preset {
    data,
    zero,  // version 3 only, as the next
    zero_with_cluster,
    shared_data,  // with the snapshot; refcount width 2 at least
    shared_zero_with_cluster,
    snapshot_data,  // the snapshot has it, the active disk has not
};

struct BitmapSpec {
    std::string name = "b0";
    std::uint32_t granularity_bits = 16;
    bool enabled = true;
    bool in_use = false;
    std::vector<Range> set;  // granules
    Buffer extra_data;       // if any, with the flag that it is compatible
    // Pieces that are all ones have no cluster (but the last one).
    bool all_ones_without_cluster = false;
};

struct ImageSpec {
    std::uint32_t version = 3;
    std::uint32_t cluster_bits = 16;
    std::uint32_t refcount_order = 4;
    std::uint64_t size = 1 << 20;              // bytes, as the header has it
    std::map<std::uint64_t, Preset> clusters;  // by guest cluster
    bool snapshot = false;                     // there is one; implied by shared clusters
    // L2 tables of which all clusters are shared are shared themselves.
    bool shared_l2_tables = true;
    std::vector<BitmapSpec> bitmaps;
    unsigned feature_names = 3;  // entries of the feature name table, 0 to 5
    std::vector<Extension> more_extensions;
    std::uint32_t header_length = 112;  // 104 is the least of version 3
    // Every n-th cluster that is handed out is followed by a free one; 0: none.
    unsigned free_every = 0;
    // The file ends inside its last cluster.
    bool unpadded_end = false;

    Geometry geometry() const { return {version, cluster_bits, refcount_order, false}; }
    // QEMU 7.2 opens no image with extra data of a bitmap, compatible or not.
    bool qemu_opens() const;
    std::string text() const;  // one line, for messages
};

struct BuiltImage {
    StoreImage image;
    ReferenceDisk reference;  // data clusters hold payload of generation 0
    HeaderArea area;
    std::vector<BitmapDirectoryEntry> bitmaps;
    // Where the guest has what the file ends with, if it ends inside a cluster of data.
    std::optional<GuestOffset> at_end = {};
};

BuiltImage build_image(const ImageSpec &spec);

// Anything the engine serves: versions, widths, presets, snapshots, bitmaps.
// 0 cluster_bits: any. Disks are small, but larger than one L2 table reaches
// where that is possible within `size_max`.
ImageSpec random_spec(Random &random, std::uint32_t cluster_bits = 0,
                      std::uint64_t size_max = 8 << 20);

}  // namespace qcow2::test
