// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ImageHeader: cluster 0 of an open image, and the header sector as the one
// commit (rules H).
//
// H1  A structural change is prepared aside and takes effect by one write of
//     one sector, made durable: sector 0, or whichever single sector differs.
// H2  If several sectors differ, but all that the new sector 0 needs behind it
//     is there at the same places (only names of features may read as rubbish
//     meanwhile), sector 0 goes first and is durable before the rest.
// H3  Else what follows the header is first written, durably, behind all that
//     the old header names. Then sector 0 leads there past a gap, a feature name
//     table: the commit. Then all goes to where it is to be, in the same way. If
//     the cluster has no room for that, the change is refused.
// H4  Unknown autoclear bits go before the first write.
// W5  If it is not known which header the file has, nothing is written any more.
//
// Any thread.

#pragma once

#include <functional>

#include "core/base/mutex.h"
#include "core/format/extensions.h"
#include "core/image/guarded_store.h"

namespace qcow2 {

class ImageHeader {
public:
    // bytes: what the file begins with, as far as read_header_area() has read it.
    ImageHeader(GuardedStore &store, HeaderArea area, Buffer bytes);

    // What the file says now. A copy: others may commit.
    HeaderArea area() const EXCLUDES(mutex_);
    Header header() const { return area().header; }

    // Changes what the file says, durably. What it will name must be durable.
    // On failure nothing has changed, if certain(); else the old header could
    // not be put back either, and the file may name the new: the store is in the
    // error state, and what the change was about must not be used for anything
    // else.
    using Change = std::function<void(HeaderArea &)>;
    Result<void> commit(const Change &change) EXCLUDES(mutex_);
    bool certain() const EXCLUDES(mutex_);
    // Whether the header has room for the change.
    Result<void> check(const Change &change) const EXCLUDES(mutex_);

private:
    struct Plan {
        HeaderArea area;         // what it is to say
        Buffer last;             // cluster 0 as it is to be, as far as cluster_ goes
        Buffer step;             // on the way (H3); empty if there is none
        std::size_t behind = 0;  // sector: there `step` has what follows the header
    };
    Result<Plan> plan(const Change &change) const REQUIRES(mutex_);
    Result<void> read_until(std::uint64_t end) const REQUIRES(mutex_);
    Result<void> commit_plan(const Plan &plan) REQUIRES(mutex_);
    Result<void> finish_plan(const Plan &plan) REQUIRES(mutex_);
    Result<void> write_changes(const Buffer &cluster, std::size_t begin, std::size_t end)
        REQUIRES(mutex_);
    Result<void> restore() REQUIRES(mutex_);
    Result<void> write_sectors(const Buffer &cluster, std::size_t first, std::size_t end)
        REQUIRES(mutex_);

    GuardedStore &store_;
    mutable Mutex mutex_{Rank::header};
    HeaderArea area_ GUARDED_BY(mutex_);
    // Cluster 0, which may have 2 MiB, as far as the area took part in any change: whole
    // sectors. What the file has behind that is not looked at, and stays. (mutable: a plan may
    // have to look further.)
    mutable Buffer cluster_ GUARDED_BY(mutex_);
    Buffer old_ GUARDED_BY(mutex_);           // as it was before the last commit
    bool certain_ GUARDED_BY(mutex_) = true;  // the file says area_
};

}  // namespace qcow2
