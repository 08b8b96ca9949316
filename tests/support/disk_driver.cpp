// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/disk_driver.h"

#include <algorithm>

#include "core/base/log.h"
#include "tests/support/payload.h"

namespace qcow2::test {

namespace {

std::string where(const char *what, Range range)
{
    return std::string(what) + " of guest " + hex(range.begin) + " to " + hex(range.end);
}

// In every byte the one or the other.
std::string mixture_fault(Range range, const Buffer &old, const Buffer &now, const Buffer &found)
{
    for (std::uint64_t i = 0; i < found.size(); ++i)
        if (found[i] != old[i] && found[i] != now[i])
            return "at guest offset " + hex(range.begin + i) + " neither the old nor the new byte";
    return {};
}

}  // namespace

std::vector<unsigned> DiskDriver::draw_weights()
{
    const auto some = [this](unsigned most) {
        return static_cast<unsigned>(random_.between(1, most));
    };
    return {some(60),
            some(20),
            some(15),
            some(30),
            some(6),
            options_.flush ? some(8) : 0,
            options_.settle && random_.coin() ? some(3) : 0,
            some(6)};
}

Range DiskDriver::draw(Range area)
{
    const std::uint64_t unit = disk_.cluster_size();
    Range range = random_.range(area.length(), options_.length_max, unit);
    range = {range.begin + area.begin, range.end + area.begin};
    range.begin = align_down(range.begin, options_.grain);
    range.end = std::min(area.end, align_up(range.end, options_.grain));
    range.begin = std::max(range.begin, area.begin);
    return range;
}

void DiskDriver::step(Range area)
{
    ++steps_;
    const Range range = draw(area);
    const bool fua = random_.one_in(20);
    switch (random_.weighted(weights_)) {
    case 0: write(range, fua); break;
    case 1:
        zero(range, {.may_unmap = random_.coin(), .fast = random_.one_in(6), .fua = fua});
        break;
    case 2: trim(range, fua); break;
    case 3: read(range); break;
    case 4: block_status(range); break;
    case 5: flush(); break;
    case 6: settle(); break;
    case 7: cool(); break;
    }
}

void DiskDriver::demand(bool condition, const std::string &what) const
{
    if (!condition)
        throw Failed("step " + std::to_string(steps_) + ", " + doing_ + ": " + what);
}

void DiskDriver::fetch(Range range, Buffer &found) const
{
    const Result<void> result = disk_.read(GuestOffset(range.begin), found);
    if (!result)
        demand(false, "reading failed: " + result.error().what);
}

void DiskDriver::accept(const Error &error) const
{
    const auto &accepted = options_.accepted;
    demand(std::find(accepted.begin(), accepted.end(), error.code) != accepted.end(),
           "unexpected error: " + std::string(to_string(error.code)) + ": " + error.what);
}

void DiskDriver::keep_old(Range range)
{
    old_.resize(range.length());
    reference_.bytes().read(range.begin, old_);
    if (!options_.refused_is_dirty)
        old_bitmaps_ = reference_.bitmaps();
}

// The content is what it is: each byte old or new.
void DiskDriver::learn(Range range)
{
    const Buffer now = reference_.read(GuestOffset(range.begin), range.length());
    found_.resize(range.length());
    fetch(range, found_);
    const std::string fault = mixture_fault(range, old_, now, found_);
    demand(fault.empty(), fault);
    reference_.preset(GuestOffset(range.begin), found_);
}

// Of what was refused, and learned.
void DiskDriver::mark_what_is_new(Range range)
{
    reference_.bitmaps() = old_bitmaps_;
    for (std::uint64_t i = 0; i < found_.size(); ++i)
        if (found_[i] != old_[i])
            reference_.mark(GuestOffset(range.begin + i), 1);
}

// The reference is as it is after the change.
template <class Operation>
void DiskDriver::change(Range range, bool fua, bool exact, Operation operation)
{
    GuestHistory *const history = clock_.history;
    const GuestOffset offset(range.begin);
    const std::uint64_t begun = history ? clock_.tick() : 0;
    GuestHistory::Change recorded = 0;
    if (history)
        recorded = history->begin(begun, offset, range.length(), reference_);
    end_change(range, fua, exact, begun, recorded, operation());
}

// recorded: in the history, with what the reference has.
void DiskDriver::end_change(Range range, bool fua, bool exact, std::uint64_t begun,
                            GuestHistory::Change recorded, const Result<void> &result)
{
    GuestHistory *const history = clock_.history;
    if (!result) {
        accept(result.error());
        ++failures_;
    }
    const bool known = result && exact;
    if (!known)
        learn(range);
    if (!result && !options_.refused_is_dirty)
        mark_what_is_new(range);
    if (!history)
        return;
    if (!known)
        recorded = history->begin(begun, GuestOffset(range.begin), range.length(), reference_);
    if (result && fua)
        history->end_durable(clock_.tick(), recorded);
    else
        history->end(clock_.tick(), recorded);
}

void DiskDriver::write(Range range, bool fua)
{
    doing_ = where("write", range);
    const GuestOffset offset(range.begin);
    keep_old(range);
    data_.resize(range.length());
    fill_payload(offset, data_, ++generation_);
    reference_.write(offset, data_);
    change(range, fua, true, [&] { return disk_.write(offset, data_, fua); });
}

void DiskDriver::zero(Range range, ZeroFlags flags)
{
    doing_ = where("zero", range);
    const GuestOffset offset(range.begin);
    keep_old(range);
    if (flags.fast) {
        zero_fast(range, flags);
        return;
    }
    reference_.zero(offset, range.length());
    change(range, flags.fua, true, [&] { return disk_.zero(offset, range.length(), flags); });
}

// It is no change if it is refused, which is known only afterwards.
void DiskDriver::zero_fast(Range range, ZeroFlags flags)
{
    const GuestOffset offset(range.begin);
    const std::uint64_t begun = clock_.history ? clock_.tick() : 0;
    const Result<void> result = disk_.zero(offset, range.length(), flags);
    if (!result && result.error().code == Errc::unsupported)
        return;
    reference_.zero(offset, range.length());
    GuestHistory::Change recorded = 0;
    if (clock_.history)
        recorded = clock_.history->begin(begun, offset, range.length(), reference_);
    end_change(range, flags.fua, true, begun, recorded, result);
}

void DiskDriver::trim(Range range, bool fua)
{
    doing_ = where("trim", range);
    const GuestOffset offset(range.begin);
    keep_old(range);
    reference_.zero(offset, range.length());
    change(range, fua, false, [&] { return disk_.trim(offset, range.length(), fua); });
}

void DiskDriver::read(Range range)
{
    doing_ = where("read", range);
    found_.assign(range.length(), 0xee);
    fetch(range, found_);
    const std::string fault = reference_.difference(GuestOffset(range.begin), found_);
    demand(fault.empty(), fault);
}

void DiskDriver::block_status(Range range)
{
    doing_ = where("block status", range);
    const auto result = disk_.block_status(GuestOffset(range.begin), range.length());
    demand(result.has_value(), "it failed");
    demand(!result->empty(), "no extent");
    std::uint64_t at = range.begin;
    for (const Extent &extent : *result) {
        const std::string this_one = where("extent", Range::of(at, extent.length));
        demand(extent.length != 0 && extent.length <= range.end - at, this_one);
        demand(!extent.hole || extent.zero, this_one + ": a hole, but nothing is below");
        demand(!extent.zero || all_zero(reference_.read(GuestOffset(at), extent.length)),
               this_one + " said to be zeros");
        at += extent.length;
    }
}

void DiskDriver::flush()
{
    doing_ = "flush";
    const std::uint64_t begun = clock_.history ? clock_.tick() : 0;
    const Result<void> result = disk_.flush();
    if (!result) {
        accept(result.error());
        ++failures_;
    } else if (clock_.history) {
        clock_.flushed(begun, clock_.tick());
    }
}

void DiskDriver::cool()
{
    doing_ = "cool";
    if (const Result<void> result = disk_.cool(); !result) {
        accept(result.error());
        ++failures_;
    }
}

bool DiskDriver::settle()
{
    doing_ = "settle";
    const std::uint64_t begun = clock_.history ? clock_.tick() : 0;
    const Result<void> result = disk_.settle();
    if (!result) {
        accept(result.error());
        ++failures_;
        return false;
    }
    if (clock_.history)
        clock_.flushed(begun, clock_.tick());
    return true;
}

}  // namespace qcow2::test
