// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/memory_store.h"

#include <utility>

#include "core/base/log.h"

namespace qcow2::test {

MemoryStore::MemoryStore(std::uint64_t size, StoreOptions options)
    : MemoryStore(StoreImage{{}, size}, options)
{
}

MemoryStore::MemoryStore(StoreImage image, StoreOptions options)
    : options_(options),
      stirrer_(options.stirred),
      image_(std::move(image)),
      fresh_from_(image_.size)
{
}

std::uint64_t MemoryStore::size() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return image_.size;
}

std::uint64_t MemoryStore::fresh_from() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return fresh_from_;
}

Result<void> MemoryStore::check_range(std::uint64_t offset, std::uint64_t length) const
{
    INVARIANT(!options_.read_only);
    if (!fits(offset, length, image_.size))
        return Error(Errc::no_space, "the store ends at " + hex(image_.size) + ", before " +
                                         hex(offset) + " + " + hex(length));
    return {};
}

Result<void> MemoryStore::read(std::uint64_t offset, MutableBytes bytes)
{
    stirrer_.turn();
    const std::lock_guard<std::mutex> lock(mutex_);
    image_.bytes.read(offset, bytes);
    return {};
}

Result<void> MemoryStore::write(std::uint64_t offset, Bytes bytes)
{
    stirrer_.turn();
    const std::lock_guard<std::mutex> lock(mutex_);
    TRY(check_range(offset, bytes.size()));
    image_.bytes.write(offset, bytes);
    return {};
}

Result<void> MemoryStore::zero(std::uint64_t offset, std::uint64_t length, bool)
{
    stirrer_.turn();
    const std::lock_guard<std::mutex> lock(mutex_);
    TRY(check_range(offset, length));
    image_.bytes.zero(offset, length);
    return {};
}

Result<void> MemoryStore::discard(std::uint64_t offset, std::uint64_t length)
{
    stirrer_.turn();
    const std::lock_guard<std::mutex> lock(mutex_);
    TRY(check_range(offset, length));
    switch (options_.discarded) {
    case Discarded::zero: image_.bytes.zero(offset, length); break;
    case Discarded::garbage: image_.bytes.fill_garbage(offset, length); break;
    case Discarded::kept: break;
    }
    return {};
}

Result<void> MemoryStore::flush()
{
    stirrer_.turn();
    return {};
}

Result<void> MemoryStore::grow(std::uint64_t size_min)
{
    stirrer_.turn();
    const std::lock_guard<std::mutex> lock(mutex_);
    INVARIANT(!options_.read_only);
    if (size_min <= image_.size)
        return {};
    if (!options_.can_grow || size_min > options_.size_limit)
        return Error(Errc::no_space, "the store cannot grow to " + hex(size_min));
    const std::uint64_t rounded = div_ceil(size_min, options_.growth_step) * options_.growth_step;
    image_.size = std::min(rounded, options_.size_limit);
    return {};
}

Result<void> MemoryStore::cut(std::uint64_t size)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    INVARIANT(!options_.read_only);
    // Only what this process added is cut off.
    size = std::max(size, fresh_from_);
    if (!options_.can_grow || size >= image_.size)
        return {};
    image_.bytes.zero(size, image_.size - size);
    image_.size = size;
    return {};
}

void MemoryStore::replace(StoreImage image)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    image_ = std::move(image);
}

StoreImage MemoryStore::image() const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return image_;
}

}  // namespace qcow2::test
