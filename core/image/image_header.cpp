// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/image_header.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/log.h"
#include "core/base/rare.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

using limits::sector;

// The sectors of [begin, end) in which two clusters differ: first and end.
std::pair<std::size_t, std::size_t> differing(const Buffer &a, const Buffer &b, std::size_t begin,
                                              std::size_t end)
{
    std::size_t first = end, last = begin;
    for (std::size_t i = begin; i < end; ++i)
        if (std::memcmp(&a[i * sector], &b[i * sector], sector) != 0) {
            first = std::min(first, i);
            last = i + 1;
        }
    return {first, last};
}

// Whether the new sector 0 stands for itself: what it needs behind it is there,
// at the same places, whichever of the other sectors are new already.
bool stands_for_itself(const Buffer &old, const Buffer &cluster, const HeaderArea &area)
{
    for (const Range &range : area.ranges_that_matter())
        for (std::uint64_t at = std::max<std::uint64_t>(range.begin, sector); at < range.end; ++at)
            if (old[at] != cluster[at])
                return false;
    return true;
}

// A step that has no memory has failed, as one that returns an error.
template <class Step>
Result<void> without_throwing(Step step)
{
    try {
        return step();
    } catch (const std::bad_alloc &) {
        return Error(Errc::io, "out of memory");  // which takes none
    }
}

}  // namespace

ImageHeader::ImageHeader(GuardedStore &store, HeaderArea area, Buffer bytes)
    : store_(store), area_(std::move(area)), cluster_(std::move(bytes))
{
    cluster_.resize(align_up(cluster_.size(), sector));
}

HeaderArea ImageHeader::area() const
{
    Locked lock(mutex_);
    return area_;
}

// Writes sectors [first, end) durably; cluster_ follows what the file says.
Result<void> ImageHeader::write_sectors(const Buffer &cluster, std::size_t first, std::size_t end)
{
    if (first >= end)
        return {};
    const Bytes bytes = sub(Bytes(cluster), first * sector, (end - first) * sector);
    TRY(store_.write_durable(first * sector, bytes).in("header"));
    std::copy(bytes.begin(), bytes.end(), cluster_.begin() + first * sector);
    return {};
}

// A write that failed may have landed all the same. Until the old header is
// back nobody knows what the file names.
Result<void> ImageHeader::restore()
{
    certain_ = false;
    TRY(write_sectors(old_, 0, 1));  // what it needs behind it is there
    TRY(write_sectors(old_, 1, old_.size() / sector));
    certain_ = true;
    return {};
}

bool ImageHeader::certain() const
{
    Locked lock(mutex_);
    return certain_;
}

// What is to be written, in this order: the sectors from `behind` on, sector 0,
// which is the commit. Then, where that was a step only: the sectors before
// `behind`, sector 0 again, the sectors from `behind` on.
Result<ImageHeader::Plan> ImageHeader::plan(const Change &change) const
{
    HeaderArea area = area_;
    change(area);
    Plan plan;
    plan.last = TRY(encode_header_area(area, cluster_).in("header"));
    plan.area = TRY(decode_header_area(plan.last));
    const std::uint64_t cluster_size = plan.last.size();
    TRY(read_until(plan.area.named_end()));
    plan.last.resize(cluster_.size());
    const std::size_t sectors = plan.last.size() / sector;
    plan.behind = sectors;
    const auto [first, end] = differing(cluster_, plan.last, 0, sectors);
    if (first >= end || end - first == 1 || stands_for_itself(cluster_, plan.last, plan.area))
        return plan;  // H1, H2
    // H3.
    const HeaderArea old = TRY(decode_header_area(cluster_));
    const std::uint64_t place = align_up(std::max(old.named_end(), plan.area.named_end()), sector);
    auto step = encode_header_area(behind_a_gap(area, place), cluster_);
    if (step) {
        const HeaderArea there = TRY(decode_header_area(*step));
        TRY(read_until(there.named_end()));
        step->resize(cluster_.size());
        Buffer before = cluster_;  // the commit
        std::copy(step->begin() + place, step->end(), before.begin() + place);
        if (stands_for_itself(before, *step, there)) {
            plan.behind = place / sector;
            plan.last.resize(cluster_.size());
            plan.step = std::move(*step);
            return plan;
        }
    }
    return Error(
        Errc::no_space,
        "header: its extensions and the name of the backing file are too long for a cluster of "
        "{} bytes to be changed without a moment in which a crash would harm the image",
        cluster_size);
}

// More of cluster 0 takes part. (Behind the end of a file there are zeros.)
Result<void> ImageHeader::read_until(std::uint64_t end) const
{
    const std::size_t known = cluster_.size();
    end = align_up(end, sector);
    if (end <= known)
        return {};
    Buffer more(end - known);
    TRY(store_.read(known, more).in("header"));
    cluster_.insert(cluster_.end(), more.begin(), more.end());
    return {};
}

Result<void> ImageHeader::check(const Change &change) const
{
    Locked lock(mutex_);
    TRY(plan(change));
    return {};
}

Result<void> ImageHeader::commit(const Change &change)
{
    Locked lock(mutex_);
    TRY(store_.state());
    Plan plan = TRY(this->plan(change));
    old_ = cluster_;
    // From here on nothing throws: who asked must know which header the file has.
    Result<void> committed =
        without_throwing([&]() NO_THREAD_SAFETY_ANALYSIS { return commit_plan(plan); });
    if (!committed) {
        auto restored = without_throwing([&]() NO_THREAD_SAFETY_ANALYSIS {
            return restore().in("the old header could not be put back");
        });
        if (!restored)
            store_.fail(std::move(restored).error());  // W5
        return committed;
    }
    area_ = std::move(plan.area);
    // It says already all that it is to say.
    [[maybe_unused]] const auto finished =
        without_throwing([&]() NO_THREAD_SAFETY_ANALYSIS -> Result<void> {
            if (const auto rest = finish_plan(plan); !rest)
                log_debug("header, behind its first sector: {}", rest.error().what);
            return {};
        });
    return {};
}

// Up to the one write that commits.
Result<void> ImageHeader::commit_plan(const Plan &plan)
{
    if (!plan.step.empty()) {  // H3
        RARE("what follows the header goes by way of the gap behind it (H3)");
        TRY(write_changes(plan.step, plan.behind, plan.step.size() / sector));
        return write_sectors(plan.step, 0, 1);
    }
    const auto [first, end] = differing(cluster_, plan.last, 0, plan.last.size() / sector);
    if (end - first == 1)
        return write_sectors(plan.last, first, end);  // H1
    return write_changes(plan.last, 0, 1);            // H2
}

Result<void> ImageHeader::finish_plan(const Plan &plan)
{
    TRY(write_changes(plan.last, 1, plan.behind));
    TRY(write_changes(plan.last, 0, 1));
    return write_changes(plan.last, plan.behind, plan.last.size() / sector);
}

// Those of [begin, end) that differ from what the file says.
Result<void> ImageHeader::write_changes(const Buffer &cluster, std::size_t begin, std::size_t end)
{
    const auto [first, last] = differing(cluster_, cluster, begin, end);
    return write_sectors(cluster, first, last);
}

}  // namespace qcow2
