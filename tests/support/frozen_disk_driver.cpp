// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/frozen_disk_driver.h"

#include <algorithm>

namespace qcow2::test {

namespace {

// A part under the lock at a time: small, so that threads meet in the middle of requests.
constexpr std::uint64_t part_bytes = 2048;

template <class Do>
void in_parts(std::mutex &mutex, Stirrer &stirrer, Range range, Do on_part)
{
    while (!range.empty()) {
        stirrer.turn();
        const Range part{range.begin,
                         std::min(range.end, align_down(range.begin, part_bytes) + part_bytes)};
        const std::lock_guard<std::mutex> lock(mutex);
        on_part(part);
        range.begin = part.end;
    }
}

}  // namespace

Result<void> InnerDisk::read(GuestOffset offset, MutableBytes bytes)
{
    const Range range = Range::of(offset.value, bytes.size());
    ++reads;
    if (range.overlaps(unreadable))
        return Error(Errc::io, "a bad sector");
    in_parts(mutex_, stirrer, range, [&](Range part) {
        std::copy(bytes_.begin() + part.begin, bytes_.begin() + part.end,
                  bytes.begin() + (part.begin - range.begin));
    });
    return {};
}

Result<Extent> InnerDisk::status(std::uint64_t offset, std::uint64_t length_max)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    ++status_calls;
    const bool data = data_[offset / extent_bytes];
    std::uint64_t end = offset;
    while (end < offset + length_max && data_[end / extent_bytes] == data)
        end = std::min(offset + length_max, align_down(end, extent_bytes) + extent_bytes);
    return Extent{end - offset, !data, !data};
}

void InnerDisk::write(Range range, std::uint8_t value)
{
    in_parts(mutex_, stirrer, range, [&](Range part) {
        std::fill(bytes_.begin() + part.begin, bytes_.begin() + part.end, value);
        const Range extents = part.touched(extent_bytes);
        std::fill(data_.begin() + extents.begin, data_.begin() + extents.end, true);
    });
}

void InnerDisk::zero(Range range)
{
    in_parts(mutex_, stirrer, range, [&](Range part) {
        std::fill(bytes_.begin() + part.begin, bytes_.begin() + part.end, 0);
        const Range extents = part.whole(extent_bytes);
        std::fill(data_.begin() + extents.begin, data_.begin() + extents.end, false);
    });
}

void InnerDisk::grow(std::uint64_t size)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_.resize(size);
    data_.resize(div_ceil(size, extent_bytes));
}

std::uint64_t InnerDisk::size() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return bytes_.size();
}

bool InnerDisk::is_data(std::uint64_t offset) const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return data_[offset / extent_bytes];
}

Buffer InnerDisk::content() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return bytes_;
}

Result<void> MemoryScratch::read(std::uint64_t offset, MutableBytes bytes)
{
    ++reads;
    if (on_read)
        TRY(on_read());
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t i = 0; i < bytes.size(); ++i)
        if (!written_[offset + i])
            return Error(Errc::io,
                         "nobody wrote byte " + std::to_string(offset + i) + " of the scratch");
    std::copy_n(bytes_.begin() + offset, bytes.size(), bytes.begin());
    return {};
}

Result<void> MemoryScratch::write(std::uint64_t offset, Bytes bytes)
{
    ++writes;
    if (on_write)
        TRY(on_write());
    const std::lock_guard<std::mutex> lock(mutex_);
    if (used_ + bytes.size() > bytes_max_)
        return Error(Errc::no_space, "the scratch is full");
    used_ += bytes.size();
    std::copy(bytes.begin(), bytes.end(), bytes_.begin() + offset);
    std::fill_n(written_.begin() + offset, bytes.size(), true);
    return {};
}

void MemoryScratch::discard(std::uint64_t offset, std::uint64_t length)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::uint64_t i = offset; i < offset + length; ++i) {
        INVARIANT(written_[i]);
        written_[i] = false;
    }
    used_ -= length;
}

Result<void> FreezableDisk::read(GuestOffset offset, MutableBytes bytes)
{
    if (on_live_read)
        on_live_read();
    Passage passage(gate_);
    return inner.read(offset, bytes);
}

Result<Extent> FreezableDisk::status(std::uint64_t offset, std::uint64_t length_max)
{
    if (on_live_read)
        on_live_read();
    Passage passage(gate_);
    return inner.status(offset, length_max);
}

void FreezableDisk::write(Range range, std::uint8_t value)
{
    Passage passage(gate_);
    frozen.before_change(inner, range);
    inner.write(range, value);
}

void FreezableDisk::zero(Range range)
{
    Passage passage(gate_);
    FrozenDisks::Waited waited;
    while (!range.empty()) {
        const std::uint64_t end = frozen.before_part(inner, range, waited);
        inner.zero({range.begin, end});
        range.begin = end;
    }
}

void FreezableDisk::trim(Range range)
{
    Passage passage(gate_);
    for (const Range &part : frozen.trimmable(inner, range))
        inner.zero(part);
}

void FreezableDisk::grow(std::uint64_t size)
{
    Exclusive alone(gate_);
    inner.grow(size);
}

std::shared_ptr<FrozenDisk> FreezableDisk::freeze(const std::string &name,
                                                  std::unique_ptr<Scratch> scratch,
                                                  std::shared_ptr<const Needed> needed, Buffer *was)
{
    Exclusive alone(gate_);
    if (was)
        *was = inner.content();
    return frozen.freeze({name, inner.size(), std::move(scratch), std::move(needed),
                          [this](const std::string &) { ++broken; }});
}

std::shared_ptr<FrozenDisk> FreezableDisk::freeze(const std::string &name, MemoryScratch *&scratch,
                                                  std::shared_ptr<const Needed> needed)
{
    auto memory = std::make_unique<MemoryScratch>(inner.size());
    scratch = memory.get();
    return freeze(name, std::move(memory), std::move(needed));
}

std::shared_ptr<FrozenDisk> FreezableDisk::freeze(const std::string &name)
{
    return freeze(name, std::make_unique<MemoryScratch>(inner.size()));
}

Needed::Run NeededRanges::run(Range blocks) const
{
    const auto needed = [this](std::uint64_t block) {
        return std::any_of(ranges_.begin(), ranges_.end(), [&](const Range &range) {
            return range.begin <= block && block < range.end;
        });
    };
    std::uint64_t end = blocks.begin + 1;
    while (end < blocks.end && needed(end) == needed(blocks.begin))
        ++end;
    return {needed(blocks.begin), end - blocks.begin};
}

Buffer read_all(FrozenDisk &disk)
{
    Buffer bytes(disk.size());
    must(disk.read(GuestOffset(0), bytes));
    return bytes;
}

}  // namespace qcow2::test
