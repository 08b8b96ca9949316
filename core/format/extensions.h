// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The header area, that is all of cluster 0: header, extensions, backing file
// name. Unknown extensions survive byte for byte, in their order. Pure.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/range.h"
#include "core/format/header.h"

namespace qcow2 {

enum class ExtensionType : std::uint32_t {
    end = 0x00000000,
    backing_format = 0xe2792aca,
    feature_names = 0x6803f857,
    bitmaps = 0x23852875,
    luks = 0x0537be77,
    data_file = 0x44415441,
};

struct Extension {
    ExtensionType type;  // or any other number
    Buffer data;         // without padding

    // Bytes in the file: type, length, data, padding to 8.
    std::uint64_t encoded_size() const { return 8 + align_up(data.size(), 8); }
    friend bool operator==(const Extension &, const Extension &) = default;
};

namespace on_disk {
// qcow2.rst, "Bitmaps extension".
struct BitmapsExtension {
    be32 nb_bitmaps;               //  0 -  3
    be32 reserved;                 //  4 -  7
    be64 bitmap_directory_size;    //  8 - 15
    be64 bitmap_directory_offset;  // 16 - 23
};
static_assert(sizeof(BitmapsExtension) == 24);
}  // namespace on_disk

struct BitmapsExtension {
    std::uint32_t nb_bitmaps = 0;
    std::uint64_t bitmap_directory_size = 0;  // bytes
    HostOffset bitmap_directory_offset;

    friend bool operator==(const BitmapsExtension &, const BitmapsExtension &) = default;
};

Result<BitmapsExtension> decode_bitmaps_extension(Bytes data, const Geometry &geometry);
Extension encode_bitmaps_extension(const BitmapsExtension &extension);

struct HeaderArea {
    Header header;
    std::vector<Extension> extensions;  // in the order of the file, without `end`
    std::string backing_file_name;

    const Extension *find(ExtensionType type) const;

    // Of an area that was decoded: where all that it names has ended in the
    // cluster; and which bytes of the cluster it needs, that is all but the data
    // of feature name tables, which are for people.
    std::uint64_t named_end() const;
    std::vector<Range> ranges_that_matter() const;
    friend bool operator==(const HeaderArea &, const HeaderArea &) = default;
};

// cluster: cluster 0, shorter if the file is. Extensions are checked for their
// form; what stands in them is for those who use them.
Result<HeaderArea> decode_header_area(Bytes cluster);

// Cluster 0 anew. old: the cluster as it is; header fields that we do not know
// are taken from it. The backing file name keeps its place if the extensions
// leave it room, else it comes right behind them. no_space if all that does
// not fit in a cluster; with bitmaps, if QEMU could not write it anew there.
Result<Buffer> encode_header_area(const HeaderArea &area, Bytes old);

// The extensions with the bitmaps extension put first (rule H2); `bitmaps`
// nullopt takes it away. When the first one comes, the feature name table, if
// there is one, is cut by its 32 bytes, so that nothing behind moves; when it
// goes, a table that was cut has them back.
std::vector<Extension> with_bitmaps_extension(const std::vector<Extension> &extensions,
                                              const std::optional<BitmapsExtension> &bitmaps);

// The same area with all but a bitmaps extension in front moved to `place` in
// the cluster (rule H3): what lies between belongs to a feature name table.
HeaderArea behind_a_gap(HeaderArea area, std::uint64_t place);

}  // namespace qcow2
