// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lives: structural changes. A crash finds what was before, or what is after.

#include "tests/crash/lives.h"

#include <algorithm>

namespace qcow2::test {

template <class Draw>
void Lives::become(Disk &disk, Draw draw)
{
    ReferenceDisk after = current_;
    ReferenceDisk before = stages_.empty() ? before_ : stages_.back().before;
    const auto operation = draw(after, before);
    const std::uint64_t begun = tick();
    const auto change =
        history_.begin(begun, GuestOffset(0), std::max(after.size(), current_.size()), after);
    if (!done(operation()))
        return;
    const std::uint64_t returned = tick();
    history_.end_durable(returned, change);
    history_.flushed(begun, returned);
    stages_.push_back({begun, returned, std::move(before)});
    current_ = std::move(after);
    BOOST_REQUIRE_EQUAL(disk.size(), current_.size());
}

void Lives::restructure(Disk &disk)
{
    const std::uint64_t which = random_.below(4);
    if (which < 2)
        become(disk, [&](ReferenceDisk &after, ReferenceDisk &before) {
            const std::uint64_t size = 512 * random_.between(1, 3000);
            after.resize(size);
            before.resize(size);
            return [&disk, size] { return disk.resize(size); };
        });
    else if (which == 2 || snapshots_.empty())
        change_snapshots(disk, random_);
    else
        become(disk, [&](ReferenceDisk &after, ReferenceDisk &before) {
            const auto chosen = std::next(
                snapshots_.begin(), static_cast<std::ptrdiff_t>(random_.below(snapshots_.size())));
            after = chosen->second.content;
            before.resize(after.size());
            for (auto &[name, bitmap] : before.bitmaps())
                if (bitmap.enabled && !bitmap.in_use)
                    bitmap.bits.set({0, bitmap.bits.size()});
            return [&disk, name = chosen->first] { return disk.revert(name); };
        });
}

void Lives::change_snapshots(Disk &disk, Random &random)
{
    const auto there = must(disk.snapshots());
    if (there.size() > 3 || (!there.empty() && random.one_in(3))) {
        const std::string name = random.pick(there).name;
        if (done(disk.delete_snapshot(name)))
            snapshots_.erase(name);
        return;
    }
    const std::string name = "s" + std::to_string(++snapshots_made_);
    if (done(disk.create_snapshot({name, 1700000000, 0})) && kind_.threads == 1)
        snapshots_.insert({name, {current_, tick()}});
}

void Lives::change_bitmaps(Disk &disk, Random &random)
{
    const auto states = must(disk.bitmap_states(false));
    const auto found = std::ranges::find(states, passing, &BitmapState::name);
    std::vector<DiskStep> steps;
    if (found == states.end()) {
        steps.push_back(
            AddBitmap{{.name = passing, .enabled = random.coin(), .all_dirty = random.coin()}});
    } else if (found->inconsistent) {  // on-close: since a crash
        steps.push_back(RemoveBitmap{passing});
    } else {
        std::vector<std::string> sources;
        for (const BitmapState &state : states)
            if (!state.inconsistent)
                sources.push_back(state.name);
        const std::vector<DiskStep> each = {ClearBitmap{passing},
                                            found->enabled ? DiskStep(DisableBitmap{passing})
                                                           : DiskStep(EnableBitmap{passing}),
                                            MergeBitmaps{passing, sources}, RemoveBitmap{passing}};
        const std::size_t first = random.below(each.size());
        steps.assign(each.begin() + static_cast<std::ptrdiff_t>(first),
                     random.coin() ? each.end()
                                   : each.begin() + static_cast<std::ptrdiff_t>(first) + 1);
    }
    const auto changed = disk.change_together(steps);
    done(changed ? Result<void>() : Result<void>(changed.error()));
}

}  // namespace qcow2::test
