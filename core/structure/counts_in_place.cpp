// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A cluster that several compressed ones share has a name from each of them, so its count
// changes by more than one. The allocator raises and lowers by one, run by run. So it is done
// in rounds: the n-th is for all clusters whose change is n or more. If a round of raising
// fails those before it are taken back.

#include "core/structure/counts_in_place.h"

#include <deque>

namespace qcow2 {

namespace {

// Clusters whose change is at least so large, in runs.
std::deque<HostRun> runs_of(const CountChanges &changes, bool up, std::int64_t at_least)
{
    std::deque<HostRun> runs;
    const auto visit = [&](HostCluster cluster, std::int64_t change) -> Result<void> {
        if ((up ? change : -change) < at_least)
            return {};
        if (!runs.empty() && runs.back().end() == cluster)
            ++runs.back().count;
        else
            runs.push_back({cluster, 1});
        return {};
    };
    INVARIANT(changes.for_each(visit).has_value());
    return runs;
}

}  // namespace

Result<void> raise_counts(Image &image, const CountChanges &changes)
{
    for (std::int64_t n = 1;; ++n) {
        const std::deque<HostRun> runs = runs_of(changes, true, n);
        if (runs.empty())
            return {};
        Result<void> raised = image.allocator().raise(runs);
        if (raised)
            continue;
        while (--n > 0)
            for (const HostRun &run : runs_of(changes, true, n))
                image.allocator().lower(run);
        return raised;
    }
}

void unraise_counts(Image &image, const CountChanges &changes)
{
    for (std::int64_t n = 1; !runs_of(changes, true, n).empty(); ++n)
        for (const HostRun &run : runs_of(changes, true, n))
            image.allocator().lower(run);
}

void lower_counts(Image &image, const CountChanges &changes)
{
    for (std::int64_t n = 1;; ++n) {
        const std::deque<HostRun> runs = runs_of(changes, false, n);
        if (runs.empty())
            return;
        for (const HostRun &run : runs)
            image.give_back(run);
    }
}

}  // namespace qcow2
