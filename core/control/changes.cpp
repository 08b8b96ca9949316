// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/changes.h"

#include "core/bitmap/bitmap_data.h"
#include "core/image/snapshot_change.h"

namespace qcow2 {

Result<std::vector<BitmapState>> bitmap_states(Disk &disk)
{
    std::vector<BitmapState> states;
    TRY(disk.restructure([&](Image &image) -> Result<void> {
        const BitmapDirectory directory = TRY(BitmapDirectory::load(image));
        for (const BitmapDirectoryEntry &entry : directory.entries) {
            BitmapState state;
            state.name = entry.name;
            state.granularity = entry.granularity();
            state.enabled = entry.enabled();
            state.inconsistent = entry.in_use();
            if (!entry.in_use() && !entry.finding)
                state.dirty_bytes = TRY(how_dirty(image, entry)).bytes;
            states.push_back(state);
        }
        return {};
    }));
    return states;
}

namespace {

Result<void> take_step(Image &image, const Step &step)
{
    struct Take {
        Image &image;
        Result<void> operator()(const AddBitmap &s) const { return add_bitmaps(image, {s.bitmap}); }
        Result<void> operator()(const RemoveBitmap &s) const { return remove_bitmap(image, s.name); }
        Result<void> operator()(const ClearBitmap &s) const { return clear_bitmap(image, s.name); }
        Result<void> operator()(const EnableBitmap &s) const { return enable_bitmap(image, s.name); }
        Result<void> operator()(const DisableBitmap &s) const { return disable_bitmap(image, s.name); }
        Result<void> operator()(const MergeBitmaps &s) const
        {
            for (const std::string &source : s.sources)
                TRY(merge_bitmap(image, s.target, source));
            return {};
        }
        Result<void> operator()(const MakeSnapshot &s) const { return create_snapshot(image, s.snapshot); }
    };
    return std::visit(Take{image}, step);
}

}  // namespace

Result<void> change_together(Disk &disk, const std::vector<Step> &steps)
{
    for (const Step &step : steps)
        TRY(disk.restructure([&](Image &image) { return take_step(image, step); }));
    return {};
}

}  // namespace qcow2
