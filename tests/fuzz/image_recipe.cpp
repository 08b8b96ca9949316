// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/fuzz/image_recipe.h"

#include "core/format/table_entry.h"
#include "tests/support/image_builder.h"

namespace qcow2::test {

namespace {

class Recipe {
public:
    explicit Recipe(FuzzInput &input) : input_(input), built_(build_image(spec(input))) {}

    FuzzedImage image()
    {
        const std::uint64_t edits = input_.below(8);
        for (std::uint64_t n = 0; n < edits; ++n)
            if (input_.one_in(16))
                cut_or_grow();
            else
                write_over();
        return {std::move(built_.image), edits != 0};
    }

private:
    static ImageSpec spec(FuzzInput &input)
    {
        Random random(input.number(2));
        return random_spec(random, input.pick({9u, 9u, 0u, 12u, 16u}), 1 << 20);
    }

    const Header &header() const { return built_.area.header; }
    std::uint64_t cluster_size() const { return header().geometry().cluster_size(); }
    std::uint64_t word(std::uint64_t at) const
    {
        return load_be64(built_.image.bytes.copy(at, 8).data());
    }

    // Of an entry of the table that an entry at this place leads to.
    std::uint64_t place_below(std::uint64_t entry)
    {
        return (word(entry) & entry_offset_mask) + input_.below(cluster_size() / 8) * 8;
    }

    std::uint64_t directory() const
    {
        const Extension *bitmaps = built_.area.find(ExtensionType::bitmaps);
        return bitmaps ? load_be64(&bitmaps->data[16]) : header().header_length;
    }

    // An entry of a table, or a field of a record.
    std::uint64_t place()
    {
        const std::uint64_t kind = input_.below(10);
        const std::uint64_t n = input_.below(64);
        switch (kind) {
        case 0: return n * 4 % 112;  // header
        case 1: return header().l1_table_offset.value + n * 8;
        case 2:
        case 3: return place_below(header().l1_table_offset.value + n % 4 * 8);
        case 4: return header().refcount_table_offset.value + n % 4 * 8;
        case 5: return place_below(header().refcount_table_offset.value);
        case 6: return directory() + n * 4;
        case 7: return header().snapshots_offset.value + n * 4;
        case 8:
            if (!built_.bitmaps.empty())
                return built_.bitmaps[n % built_.bitmaps.size()].bitmap_table_offset.value +
                       n / 16 * 8;
            [[fallthrough]];
        default: return input_.below(built_.image.size + 1);
        }
    }

    // What a word may be that leads somewhere.
    std::uint64_t value()
    {
        const std::uint64_t kind = input_.below(8);
        const std::uint64_t cluster = input_.below(64) << header().cluster_bits;
        switch (kind) {
        case 0: return 0;
        case 1: return input_.number(8);
        case 2: return ~std::uint64_t(0);
        case 3: return cluster;
        case 4: return cluster | entry_copied;
        case 5: return cluster | entry_copied | l2_entry_zero;
        case 6: return cluster | l2_entry_compressed | input_.number(2) << 46;
        default: return align_down(built_.image.size, cluster_size()) + cluster;
        }
    }

    void write_over()
    {
        const std::uint64_t at = place();
        std::uint8_t bytes[8];
        store_be64(bytes, value());
        const std::size_t length = input_.pick<std::size_t>({8, 8, 4, 2, 1});
        if (at + length <= built_.image.size)
            built_.image.bytes.write(at, Bytes(bytes).subspan(8 - length));
    }

    void cut_or_grow()
    {
        std::uint64_t &size = built_.image.size;
        size = input_.below(2) ? input_.below(size + 1) : size + input_.below(4) * cluster_size();
        built_.image.bytes.zero(size, 4 << 20);
    }

    FuzzInput &input_;
    BuiltImage built_;
};

}  // namespace

FuzzedImage image_by(FuzzInput &input) { return Recipe(input).image(); }

}  // namespace qcow2::test
