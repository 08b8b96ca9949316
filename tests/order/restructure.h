// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images whose structure is changed, and small changes of it.

#pragma once

#include "core/bitmap/directory.h"
#include "core/check/check.h"
#include "core/structure/aside.h"
#include "tests/order/order.h"
#include "tests/support/patient.h"
#include "tests/support/verdict.h"

namespace order_restructure {

using namespace qcow2;
using namespace qcow2::test;

inline constexpr std::uint64_t cluster = 4096;

inline ImageSpec with_bitmap()
{
    ImageSpec spec = order_spec();
    spec.bitmaps = {{.name = "b0", .granularity_bits = 12, .set = {}, .extra_data = {}}};
    return spec;
}

inline ImageSpec with_snapshot()
{
    ImageSpec spec = order_spec();
    spec.snapshot = true;
    spec.clusters = {
        {0, Preset::data}, {1, Preset::data}, {7, Preset::shared_data}, {8, Preset::snapshot_data}};
    return spec;
}

inline void clear_copied(Patient &patient, std::initializer_list<std::uint64_t> entries)
{
    for (const std::uint64_t entry : entries)
        patient.put(entry, patient.word(entry) & ~entry_copied);
}

inline void count_table_twice(Patient &patient)
{
    patient.set_refcount(patient.word(patient.l1(0)) & entry_offset_mask, 2);
    clear_copied(patient, {patient.l1(0)});
}

// Takes effect: the disk has half its size.
inline Result<void> halve(Image &image)
{
    Aside aside(image);
    return aside.commit([](HeaderArea &area) { area.header.size /= 2; });
}

inline Result<void> nothing(Image &) { return {}; }

inline std::uint64_t clusters_in_use(const Order &order)
{
    return order.look([&](const ImageReader &reader) {
        std::uint64_t used = 0;
        for (std::uint64_t i = 0; i < 10000; ++i)
            used += must(reader.refcount(HostCluster(i))) != 0;
        return used;
    });
}

inline std::uint8_t first_byte(Disk &disk, std::uint64_t offset)
{
    Buffer bytes(1);
    must(disk.read(GuestOffset(offset), bytes));
    return bytes[0];
}

}  // namespace order_restructure
