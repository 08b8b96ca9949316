// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Each operation on bitmaps, with an image that it can be done to.

#pragma once

#include <string>
#include <vector>

#include "core/structure/operations.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/structural.h"

namespace qcow2::test {

struct BitmapOperation {
    const char *name;
    Result<void> (*operation)(Image &);
    bool only = false;  // the image has no bitmap but "b0"
    bool out_of_date = false;
    std::vector<DiskStep> steps = {};  // instead of the operation

    Structural::Operation on_disk() const
    {
        if (!operation)
            return [steps = steps](Disk &disk) -> Result<void> {
                TRY(disk.change_together(steps));
                return {};
            };
        return [done = operation](Disk &disk) { return disk.restructure(done); };
    }
};

inline const std::vector<BitmapOperation> &bitmap_operations()
{
    static const std::vector<BitmapOperation> all = {
        {"add",
         [](Image &i) {
             return add_bitmaps(
                 i, {{.name = "new"}, {.name = std::string(700, 'x'), .enabled = false}});
         }},
        {"remove", [](Image &i) { return remove_bitmap(i, "b0"); }},
        {"remove the last", [](Image &i) { return remove_bitmap(i, "b0"); }, true},
        {"remove an inconsistent one", [](Image &i) { return remove_bitmap(i, "torn"); }},
        {"enable", [](Image &i) { return enable_bitmap(i, "off"); }},
        {"disable", [](Image &i) { return disable_bitmap(i, "b0"); }},
        {"clear", [](Image &i) { return clear_bitmap(i, "off"); }},
        {"merge fine to coarse", [](Image &i) { return merge_bitmap(i, "b0", "off"); }},
        {"merge coarse to fine", [](Image &i) { return merge_bitmap(i, "off", "b0"); }},
        {"recover", [](Image &i) { return recover_all_dirty(i); }},
        {"recover what is out of date", [](Image &i) { return recover_all_dirty(i); }, false, true},
        {"drop an inconsistent one", [](Image &i) { return drop_bitmap(i, "torn"); }},
        {"drop all", drop_all_bitmaps},
        {"one step, flags alone", nullptr, false, false, {EnableBitmap{"off"}}},
        {"steps, flags alone", nullptr, false, false, {EnableBitmap{"off"}, DisableBitmap{"b0"}}},
        {"steps",
         nullptr,
         false,
         false,
         {AddBitmap{{.name = "new"}}, MergeBitmaps{"new", {"b0", "off"}}, ClearBitmap{"b0"},
          EnableBitmap{"off"}, RemoveBitmap{"torn"}, AddBitmap{{.name = "gone"}},
          RemoveBitmap{"gone"}}},
        {"steps and a snapshot",
         nullptr,
         false,
         false,
         {DisableBitmap{"b0"}, MakeSnapshot{{"s", 1700000000, 0}},
          AddBitmap{{.name = "new", .all_dirty = true}}, ClearBitmap{"off"}}},
    };
    return all;
}

inline StoreImage image_for(const BitmapOperation &operation, const ImageSpec &spec)
{
    constexpr std::uint64_t autoclear_byte = 95;
    MemoryStore store(build_image(spec).image);
    if (operation.out_of_date)
        must(store.write(autoclear_byte, Buffer(1)));
    return store.image();
}

inline ImageSpec spec_for(const BitmapOperation &operation, Random &random)
{
    ImageSpec spec = random_spec(random, random.pick<std::uint32_t>({9, 12, 16}), 300000);
    spec.version = 3;
    const std::uint32_t bits = random.pick<std::uint32_t>({9, 12});
    const auto granules = [&](std::uint32_t b) {
        return div_ceil(align_down(spec.size, 512), std::uint64_t(1) << b);
    };
    const auto one = [&](std::uint32_t b) { return Range::of(random.below(granules(b)), 1); };
    if (granules(bits + 2) < 2)
        spec.size = 100000;
    // Each of "b0" and "off" lacks something that the other has, so that to merge them either
    // way is a change.
    const std::uint64_t coarse = random.below(granules(bits + 2) - 1);
    const std::uint64_t elsewhere = random.between((coarse + 1) * 4, granules(bits) - 1);
    if (operation.name == std::string_view("steps and a snapshot"))
        spec.refcount_order = std::max(spec.refcount_order, 2u);  // it is counted by one more
    spec.bitmaps = {{.name = "b0",
                     .granularity_bits = bits + 2,
                     .set = {Range::of(coarse, 1)},
                     .extra_data = {}}};
    if (!operation.only) {
        spec.bitmaps.push_back({.name = "off",
                                .granularity_bits = bits,
                                .enabled = false,
                                .set = {Range::of(elsewhere, 1), one(bits)},
                                .extra_data = {}});
        spec.bitmaps.push_back({.name = "torn",
                                .granularity_bits = bits,
                                .in_use = true,
                                .set = {one(bits)},
                                .extra_data = {}});
    }
    return spec;
}

}  // namespace qcow2::test
