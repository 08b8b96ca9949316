// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What an image is to be, before there are bytes: in words, and drawn at random.

#include "tests/support/image_builder.h"

#include <algorithm>
#include <utility>

namespace qcow2::test {

bool ImageSpec::qemu_opens() const
{
    return std::all_of(bitmaps.begin(), bitmaps.end(),
                       [](const BitmapSpec &bitmap) { return bitmap.extra_data.empty(); });
}

std::string ImageSpec::text() const
{
    std::string line = "v" + std::to_string(version) + " cluster " +
                       std::to_string(1 << cluster_bits) + " refcount width " +
                       std::to_string(1 << refcount_order) + " size " + std::to_string(size) +
                       " presets " + std::to_string(clusters.size());
    if (snapshot)
        line += " snapshot";
    if (unpadded_end)
        line += " unpadded";
    for (const BitmapSpec &bitmap : bitmaps)
        line += " bitmap " + bitmap.name + "/2^" + std::to_string(bitmap.granularity_bits) +
                (bitmap.enabled ? "" : " disabled") + (bitmap.in_use ? " in_use" : "");
    return line;
}

ImageSpec random_spec(Random &random, std::uint32_t cluster_bits, std::uint64_t size_max)
{
    ImageSpec spec;
    spec.version = random.one_in(4) ? 2 : 3;
    spec.cluster_bits =
        cluster_bits != 0 ? cluster_bits
                          : random.pick<std::uint32_t>({9, 9, 10, 11, 12, 12, 14, 16, 16, 18, 21});
    spec.refcount_order = spec.version == 2 ? 4 : static_cast<std::uint32_t>(random.below(7));
    const Geometry geometry = spec.geometry();
    spec.size = random.between(size_max / 16, size_max);
    if (!random.one_in(3))
        spec.size =
            align_up(spec.size, random.pick<std::uint64_t>({512, 4096, geometry.cluster_size()}));
    spec.feature_names = static_cast<unsigned>(random.below(spec.cluster_bits == 9 ? 4 : 6));
    spec.header_length = random.one_in(5) ? 104 : 112;
    if (random.one_in(3))
        spec.more_extensions.push_back({ExtensionType(0x12345678), Buffer(random.below(40), 0x5a)});
    spec.free_every = random.one_in(3) ? static_cast<unsigned>(random.between(1, 5)) : 0;
    spec.unpadded_end = random.one_in(3);
    spec.snapshot = random.one_in(4);
    spec.shared_l2_tables = random.coin();

    std::vector<Preset> presets = {Preset::data, Preset::data};
    if (spec.version >= 3) {
        presets.push_back(Preset::zero);
        presets.push_back(Preset::zero_with_cluster);
    }
    if (spec.refcount_order >= 1 && random.coin()) {
        presets.push_back(Preset::shared_data);
        presets.push_back(Preset::snapshot_data);
        if (spec.version >= 3)
            presets.push_back(Preset::shared_zero_with_cluster);
        if (random.one_in(3))
            presets = {Preset::shared_data};
    }
    const std::uint64_t clusters = geometry.clusters_for(spec.size);
    const std::uint64_t runs = random.below(12);
    for (std::uint64_t run = 0; run < runs; ++run) {
        const std::uint64_t begin = random.below(clusters);
        const std::uint64_t end = std::min(clusters, begin + random.between(1, 8));
        const Preset preset = random.pick(presets);
        for (std::uint64_t cluster = begin; cluster < end; ++cluster)
            spec.clusters[cluster] = random.one_in(6) ? random.pick(presets) : preset;
    }

    const std::uint64_t disk_size = spec.size & ~std::uint64_t(511);
    const std::uint64_t bitmaps = spec.version == 2 || disk_size == 0 ? 0 : random.below(4);
    for (std::uint64_t i = 0; i < bitmaps; ++i) {
        BitmapSpec bitmap;
        bitmap.name = "b" + std::to_string(i) + std::string(random.below(20), 'x');
        bitmap.granularity_bits = random.pick<std::uint32_t>({9, 10, 12, 15, 16, 20, 31});
        bitmap.enabled = !random.one_in(4);
        bitmap.in_use = random.one_in(8);
        bitmap.all_ones_without_cluster = random.coin();
        const std::uint64_t bits = div_ceil(disk_size, std::uint64_t(1) << bitmap.granularity_bits);
        for (std::uint64_t range = random.below(4); range > 0; --range)
            bitmap.set.push_back(random.range(bits, bits, 64));
        if (random.one_in(5))
            bitmap.extra_data.assign(random.between(1, 30), 0x77);
        spec.bitmaps.push_back(std::move(bitmap));
    }
    return spec;
}

}  // namespace qcow2::test
