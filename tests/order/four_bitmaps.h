// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// An image with a bitmap of each kind, and what its file says of bitmaps.

#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "tests/order/order.h"

namespace order_bitmaps {

using namespace qcow2;
using namespace qcow2::test;

inline ImageSpec four_bitmaps()
{
    ImageSpec spec = order_spec();
    spec.bitmaps = {
        {.name = "enabled", .granularity_bits = 12, .set = {{0, 1}}, .extra_data = {}},
        {.name = "disabled",
         .granularity_bits = 12,
         .enabled = false,
         .set = {{2, 3}},
         .extra_data = {}},
        {.name = "inconsistent",
         .granularity_bits = 12,
         .in_use = true,
         .set = {{3, 4}},
         .extra_data = {}},
        {.name = "coarse", .granularity_bits = 20, .set = {}, .extra_data = {}},
    };
    return spec;
}

inline std::vector<StoredBitmap> bitmaps_of(const Order &order)
{
    return order.look([](const ImageReader &reader) { return must(reader.bitmaps()); });
}

inline const StoredBitmap &named(const std::vector<StoredBitmap> &bitmaps, const std::string &name)
{
    for (const StoredBitmap &bitmap : bitmaps)
        if (bitmap.entry.name == name)
            return bitmap;
    throw std::out_of_range(name);
}

}  // namespace order_bitmaps
