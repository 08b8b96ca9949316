// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/recording_store.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/base/log.h"

namespace qcow2::test {

std::string to_string(const Operation &operation)
{
    static constexpr std::array<const char *, 9> names = {
        "read", "write", "write_durable", "zero", "discard", "flush", "grow", "cut", "mark"};
    std::string line = names[static_cast<std::size_t>(operation.kind)];
    if (operation.kind != Operation::Kind::flush)
        line += " " + hex(operation.offset);
    if (operation.length != 0)
        line += " + " + hex(operation.length);
    line += " [" + std::to_string(operation.begun) + " - ";
    line += operation.returned == Operation::never ? "never" : std::to_string(operation.returned);
    return line + (operation.succeeded ? "]" : "] failed");
}

bool Recording::is_durable(const Operation &operation, std::uint64_t until) const
{
    if (operation.returned >= until || !operation.succeeded)
        return false;
    if (operation.kind == Operation::Kind::write_durable)
        return true;
    // By a flush, or as one of several that became so together (write_all_durable).
    const auto makes_durable = [&](const Operation &other) {
        return other.kind == Operation::Kind::flush ||
               (other.kind == Operation::Kind::write_durable && other.offset == operation.offset &&
                other.data == operation.data);
    };
    return std::ranges::any_of(operations, [&](const Operation &other) {
        return makes_durable(other) && other.begun > operation.returned && other.returned < until &&
               other.succeeded;
    });
}

std::string Recording::text() const
{
    std::string lines;
    for (const Operation &operation : operations)
        lines += to_string(operation) + "\n";
    return lines;
}

template <class Action>
Result<void> RecordingStore::record(Operation operation, Action action)
{
    std::size_t index;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        index = recording_.operations.size();
        operation.begun = recording_.events.size();
        recording_.operations.push_back(std::move(operation));
        recording_.events.push_back({index, false});
    }
    stirrer_.turn();
    Result<void> result = action();
    stirrer_.turn();
    const std::uint64_t size_after = base_.size();
    const std::lock_guard<std::mutex> lock(mutex_);
    Operation &recorded = recording_.operations.at(index);
    recorded.returned = recording_.events.size();
    recorded.succeeded = result.has_value();
    recorded.size_after = size_after;
    recording_.events.push_back({index, true});
    return result;
}

Result<void> RecordingStore::read(std::uint64_t offset, MutableBytes bytes)
{
    if (!with_reads_) {
        stirrer_.turn();
        return base_.read(offset, bytes);
    }
    return record(
        {.kind = Operation::Kind::read, .offset = offset, .length = bytes.size(), .data = {}},
        [&] { return base_.read(offset, bytes); });
}

Result<void> RecordingStore::write(std::uint64_t offset, Bytes bytes)
{
    return record({.kind = Operation::Kind::write,
                   .offset = offset,
                   .length = bytes.size(),
                   .data = Buffer(bytes.begin(), bytes.end())},
                  [&] { return base_.write(offset, bytes); });
}

Result<void> RecordingStore::write_durable(std::uint64_t offset, Bytes bytes)
{
    return record({.kind = Operation::Kind::write_durable,
                   .offset = offset,
                   .length = bytes.size(),
                   .data = Buffer(bytes.begin(), bytes.end())},
                  [&] { return base_.write_durable(offset, bytes); });
}

// In any order: a crash in between may find any of them, so all are there first, and not durable.
Result<void> RecordingStore::write_all_durable(std::span<const Part> parts)
{
    if (parts.size() > 1)
        for (const Part &part : parts)
            TRY(write(part.offset, part.bytes));
    return ByteStore::write_all_durable(parts);
}

Result<void> RecordingStore::zero(std::uint64_t offset, std::uint64_t length, bool may_unmap)
{
    return record({.kind = Operation::Kind::zero, .offset = offset, .length = length, .data = {}},
                  [&] { return base_.zero(offset, length, may_unmap); });
}

Result<void> RecordingStore::discard(std::uint64_t offset, std::uint64_t length)
{
    return record(
        {.kind = Operation::Kind::discard, .offset = offset, .length = length, .data = {}},
        [&] { return base_.discard(offset, length); });
}

Result<void> RecordingStore::flush()
{
    return record({.kind = Operation::Kind::flush, .data = {}}, [&] { return base_.flush(); });
}

Result<void> RecordingStore::grow(std::uint64_t size_min)
{
    return record({.kind = Operation::Kind::grow, .offset = size_min, .data = {}},
                  [&] { return base_.grow(size_min); });
}

Result<void> RecordingStore::cut(std::uint64_t size)
{
    return record({.kind = Operation::Kind::cut, .offset = size, .data = {}},
                  [&] { return base_.cut(size); });
}

std::uint64_t RecordingStore::now() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return recording_.events.size();
}

std::uint64_t RecordingStore::tick()
{
    const std::lock_guard<std::mutex> lock(mutex_);
    recording_.events.push_back({Recording::no_operation, false});
    return recording_.events.size();
}

void RecordingStore::mark(std::uint64_t number)
{
    [[maybe_unused]] const auto none =
        record({.kind = Operation::Kind::mark, .offset = number, .data = {}},
               [] { return Result<void>(); });
}

Recording RecordingStore::recording() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return recording_;
}

void RecordingStore::forget()
{
    const std::lock_guard<std::mutex> lock(mutex_);
    recording_ = {};
}

}  // namespace qcow2::test
