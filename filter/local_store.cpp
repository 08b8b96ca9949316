// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/local_store.h"

#include <algorithm>

#include "core/base/arith.h"
#include "filter/local_file.h"

namespace qcow2 {

namespace {

// Behind the end there are zeros.
Result<void> read_of(const LocalFile &file, std::uint64_t size, std::uint64_t offset,
                     MutableBytes bytes)
{
    const std::uint64_t there =
        offset < size ? std::min<std::uint64_t>(bytes.size(), size - offset) : 0;
    TRY(file.read(offset, bytes.first(there)));
    std::ranges::fill(bytes.subspan(there), 0);
    return {};
}

}  // namespace

bool LocalStore::can_grow() const { return file_.regular() && file_.writable(); }
bool LocalStore::read_only() const { return !file_.writable(); }
Result<void> LocalStore::flush() { return file_.flush(); }

Result<void> LocalStore::read(std::uint64_t offset, MutableBytes bytes)
{
    return read_of(file_, size_, offset, bytes);
}

ByteStore::Stretch LocalStore::stretch(std::uint64_t offset, std::uint64_t length_max)
{
    return file_.stretch(offset, length_max);
}

Result<void> LocalStore::write(std::uint64_t offset, Bytes bytes)
{
    if (!fits(offset, bytes.size(), size_))
        return Error(Errc::no_space, "{} is too short", file_.path());
    return file_.write(offset, bytes);
}

Result<void> LocalStore::zero(std::uint64_t offset, std::uint64_t length, bool may_unmap)
{
    if (!fits(offset, length, size_))
        return Error(Errc::no_space, "{} is too short", file_.path());
    if (may_unmap ? file_.punch(offset, length) : file_.zero(offset, length))
        return {};
    // Whatever was in the way may not be in that of a write.
    const Buffer zeros(std::min<std::uint64_t>(length, 256 << 10));
    for (std::uint64_t done = 0; done < length; done += zeros.size())
        TRY(write(offset + done,
                  Bytes(zeros).first(std::min<std::uint64_t>(zeros.size(), length - done))));
    return {};
}

Result<void> LocalStore::discard(std::uint64_t offset, std::uint64_t length)
{
    if (!fits(offset, length, size_))
        return Error(Errc::no_space, "{} is too short", file_.path());
    return file_.punch(offset, length);
}

Result<void> LocalStore::grow(std::uint64_t size_min)
{
    Locked lock(mutex_);
    if (size_min <= size_)
        return {};
    if (!can_grow())
        return Error(Errc::no_space, "{} cannot grow", file_.path());
    TRY(file_.truncate(size_min));
    size_ = size_min;
    return {};
}

void LocalStore::follow(std::uint64_t size)
{
    Locked lock(mutex_);
    size_ = std::max<std::uint64_t>(size_, size);
}

Result<void> LocalStore::cut(std::uint64_t size) { return shorten(std::max(size, fresh_from_)); }

Result<void> LocalStore::shorten(std::uint64_t size)
{
    Locked lock(mutex_);
    if (size >= size_ || !can_grow())
        return {};
    TRY(file_.truncate(size));
    size_ = size;
    return {};
}

Result<std::unique_ptr<ReadOnlyLocalStore>> ReadOnlyLocalStore::open(const LocalFile &file,
                                                                     bool read_only)
{
    const std::uint64_t size = TRY(file.length());
    return std::unique_ptr<ReadOnlyLocalStore>(new ReadOnlyLocalStore(file, size, read_only));
}

Result<void> ReadOnlyLocalStore::read(std::uint64_t offset, MutableBytes bytes)
{
    return read_of(file_, size_, offset, bytes);
}

ByteStore::Stretch ReadOnlyLocalStore::stretch(std::uint64_t offset, std::uint64_t length_max)
{
    return file_.stretch(offset, length_max);
}

}  // namespace qcow2
