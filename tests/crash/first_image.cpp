// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The image that lives begin with, by their kind.

#include "tests/crash/lives.h"

namespace qcow2::test {

namespace {

void fill(ImageSpec &spec, std::uint64_t clusters)
{
    for (std::uint64_t cluster = 0; cluster < clusters; ++cluster)
        spec.clusters.emplace(cluster, Preset::data);
}

void with_a_table_that_grows(ImageSpec &spec, Random &random)
{
    spec.version = 3;
    spec.refcount_order = 6;
    spec.size = 3 << 20;
    spec.free_every = 0;
    // 64 blocks of 64 clusters of 512 bytes; tables take some 150.
    fill(spec, random.between(3850, 3920));
}

void with_small_regions(ImageSpec &spec)
{
    spec.version = 3;
    spec.size = 4 << 20;
    spec.clusters.clear();
    fill(spec, spec.size >> spec.cluster_bits);
    spec.bitmaps.assign(2, {});
    spec.bitmaps[0].name = "fine";
    spec.bitmaps[0].granularity_bits = 9;
    spec.bitmaps[1].granularity_bits = 12;
}

// An entry of a bitmap's table stands for 32 MiB, two pages of bits. The last one, with
// a tail, has its cluster.
void without_room(ImageSpec &spec)
{
    spec.version = 3;
    spec.size = 72 << 20;
    spec.free_every = 0;
    spec.clusters.clear();
    for (std::uint64_t page = 0; page < Kind::windows; ++page)
        for (std::uint64_t i = 0; i < Kind::window_bytes >> spec.cluster_bits; ++i)
            spec.clusters.emplace((page * Kind::page_reach >> spec.cluster_bits) + i, Preset::data);
    const std::uint64_t last = spec.size / 512 - 1;
    spec.bitmaps.assign(1, {});
    spec.bitmaps[0].granularity_bits = 9;
    spec.bitmaps[0].set = {{last, last + 1}};
}

// The last bits of one bitmap have a cluster, those of the others have none.
void without_room_for_bits(ImageSpec &spec)
{
    spec.version = 3;
    spec.size = 2 << 20;
    spec.free_every = 0;
    spec.clusters.clear();
    for (std::uint64_t cluster = 0; cluster < spec.size >> spec.cluster_bits; ++cluster)
        if (cluster % 4 < 2)
            spec.clusters.emplace(cluster, Preset::data);
    spec.bitmaps.assign(3, {});
    for (unsigned i = 0; i < 3; ++i) {
        spec.bitmaps[i].name = "b" + std::to_string(i);
        spec.bitmaps[i].granularity_bits = 12;
    }
    spec.bitmaps[0].set = {{1, 3}};
}

// The guest has data there, and all of its sector. A bitmap's barrier makes the growth of
// the file durable with its bits.
void with_an_end_inside_a_sector(ImageSpec &spec, std::uint64_t size_max, bool bitmaps)
{
    spec.size = size_max;
    if (!bitmaps)
        spec.bitmaps.clear();
    spec.unpadded_end = true;
    spec.clusters[spec.clusters.empty() ? 0 : spec.clusters.rbegin()->first] = Preset::data;
}

void with_granularities(ImageSpec &spec)
{
    if (spec.version == 2)
        spec.version = 3;
    spec.bitmaps.clear();
    for (const std::uint32_t bits : {9, 16, 31}) {
        BitmapSpec bitmap;
        bitmap.name = "g" + std::to_string(bits);
        bitmap.granularity_bits = bits;
        spec.bitmaps.push_back(std::move(bitmap));
    }
}

}  // namespace

ImageSpec spec_of(Random &random, const Kind &kind)
{
    std::uint64_t size_max = 1 << 20;
    if (kind.cluster_bits >= 18)
        size_max = std::uint64_t(6) << kind.cluster_bits;
    if (kind.ends_inside_a_sector)
        size_max = std::uint64_t(24) << kind.cluster_bits;
    ImageSpec spec = random_spec(random, kind.cluster_bits, size_max);
    if (kind.table_grows)
        with_a_table_that_grows(spec, random);
    if (kind.size != 0)
        spec.size = kind.size;
    if (kind.ends_inside_a_sector)
        with_an_end_inside_a_sector(spec, size_max, random.coin());
    if (kind.restructured)
        spec.size = align_up(spec.size, 512);
    // Threads change nothing else than snapshots: 1 bit would forbid them all.
    if (kind.restructured && kind.threads > 1)
        spec.refcount_order = std::max(spec.refcount_order, 1u);
    if (kind.small_regions)
        with_small_regions(spec);
    if (kind.no_room)
        without_room(spec);
    if (kind.no_room_for_bits)
        without_room_for_bits(spec);
    if (kind.bitmaps_change && spec.version == 2)
        spec.version = 3;
    if (kind.granularities)
        with_granularities(spec);
    return spec;
}

Beginning Beginning::of(Random &random, const Kind &kind, const ImageSpec &spec)
{
    if (kind.made) {
        QemuImage made = make_by_qemu(random, *kind.made);
        return {std::move(made.image),
                std::move(made.reference),
                std::move(made.files),
                std::move(made.text),
                false,
                kind.made != QemuMade::backing};
    }
    BuiltImage built = build_image(spec);
    return {std::move(built.image), std::move(built.reference), nullptr,     spec.text(),
            spec.version == 2,      spec.qemu_opens(),          built.at_end};
}

}  // namespace qcow2::test
