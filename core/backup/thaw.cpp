// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

// How backups end.
//
// What an older frozen disk has not kept itself it may find in a newer one. So the keeping of
// one that is broken, or whose backup has ended, stays in the list as long as there is an older
// one that is true; nothing more is kept in it.

#include "core/backup/frozen_disks.h"

#include <algorithm>
#include <new>

#include "core/base/log.h"

namespace qcow2 {

namespace {

// So many of those that are kept for older ones alone; if there are more, two become one.
constexpr std::size_t quiet_max = 8;

}  // namespace

void FrozenDisks::thaw(const FrozenDisk &disk)
{
    Locked lock(ending_);
    disk.standing_->end();
    tidy_alone();
}

bool FrozenDisks::break_all(const char *reason)
{
    Locked lock(ending_);
    bool any = false;
    for (const auto &keeping : keepings_.take()->newest_first()) {
        any |= keeping->standing->is_true();
        keeping->standing->give_up(reason);
    }
    tidy_alone();
    return any;
}

void FrozenDisks::tidy()
{
    Locked lock(ending_);
    tidy_alone();
}

void FrozenDisks::tidy_alone()
{
    std::shared_ptr<const Keepings> old;
    {
        // Who keeps something for one that is not true any more has done with it, and has let go
        // of the list that he had.
        const RangeLock::Guard all(claims_, {0, ~std::uint64_t(0)});
        old = keepings_.put([](const Keepings &keepings) {
            Keepings::List list = keepings.newest_first();
            while (!list.empty() && !list.back()->standing->is_true())
                list.pop_back();
            for (const auto &keeping : list)
                keeping->quiet = !keeping->standing->is_true();
            return list;
        });
    }
}

}  // namespace qcow2
