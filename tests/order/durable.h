// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A disk with bitmap-sync=durable, and where its bits stand in the file.

#pragma once

#include <thread>

#include "core/bitmap/dirty_bits.h"
#include "core/check/check.h"
#include "tests/order/order.h"
#include "tests/support/qemu_img.h"

namespace order_durable {

using namespace qcow2;
using namespace qcow2::test;

inline constexpr std::uint64_t cs = 4096;
inline constexpr std::uint64_t region = 256 << 10;

inline ImageSpec durable_spec()
{
    ImageSpec spec = order_spec();
    spec.bitmaps = {
        // 2048 bits, in a cluster that is there.
        {.name = "fine", .granularity_bits = 12, .set = {{1000, 1001}}, .extra_data = {}},
        // 8 bits, in a cluster that is not.
        {.name = "coarse", .granularity_bits = 20, .set = {}, .extra_data = {}},
        {.name = "disabled",
         .granularity_bits = 12,
         .enabled = false,
         .set = {{2, 3}},
         .extra_data = {}},
    };
    return spec;
}

class Durable : public Order {
public:
    explicit Durable(const ImageSpec &spec = durable_spec(), StoreOptions store = {},
                     DiskOptions disk_options = options())
        : Order(spec, store, disk_options)
    {
        must(disk().begin_writing());
    }

    static DiskOptions options()
    {
        DiskOptions options;
        options.bitmap_sync = BitmapSync::durable;
        options.arming.region_bytes = region;
        return options;
    }

    StoredBitmap bitmap(const std::string &name) const
    {
        for (const StoredBitmap &bitmap :
             look([](const ImageReader &reader) { return must(reader.bitmaps()); }))
            if (bitmap.entry.name == name)
                return bitmap;
        throw std::out_of_range(name);
    }
    // Where the bit of a guest offset stands; 0 if its cluster is not there.
    HostOffset place(const std::string &name, std::uint64_t offset) const
    {
        const StoredBitmap found = bitmap(name);
        const std::uint64_t byte = offset / found.entry.granularity() / 8;
        const BitmapTableEntry &entry = found.table.at(byte / cs);
        return entry.has_cluster() ? entry.data + byte % cs : HostOffset(0);
    }
};

inline bool has_bit(const Operation &operation, HostOffset place, std::uint64_t bit)
{
    const auto word = word_of(operation, place, 1);
    return word && (*word >> bit % 8 & 1);
}

// The first write that puts this bit there.
inline std::size_t find_bit(const Recording &recording, HostOffset place, std::uint64_t bit)
{
    return recording.find(
        0, [&](const Operation &operation) { return has_bit(operation, place, bit); });
}

using Request = std::function<void(Order &)>;
inline const std::vector<std::pair<const char *, Request>> requests = {
    {"write", [](Order &order) { order.write(0, 7); }},
    {"zero", [](Order &order) { must(order.disk().zero(GuestOffset(0), cs, {})); }},
    {"zero of a part", [](Order &order) { must(order.disk().zero(GuestOffset(10), 100, {})); }},
    {"trim", [](Order &order) { must(order.disk().trim(GuestOffset(0), cs, true)); }},
};

// The first operation that touches the data or the mapping of guest cluster 0.
inline std::size_t find_change(const Recording &recording, HostOffset host, HostOffset l2)
{
    return recording.find(0, [&](const Operation &operation) {
        return operation.writes() && (operation.range().overlaps(Range::of(host.value, cs)) ||
                                      operation.range().overlaps(Range::of(l2.value, 8)));
    });
}

}  // namespace order_durable
