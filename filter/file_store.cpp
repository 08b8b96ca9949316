// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/file_store.h"

#include <algorithm>

#include "filter/local_file.h"

namespace qcow2 {

Result<std::unique_ptr<FileStore>> FileStore::open(const LocalFile &file, bool read_only)
{
    const std::uint64_t size = TRY(file.length());
    return std::unique_ptr<FileStore>(new FileStore(file, size, read_only));
}

Result<void> FileStore::read(std::uint64_t offset, MutableBytes bytes)
{
    const std::uint64_t there = offset < size_ ? std::min<std::uint64_t>(bytes.size(), size_ - offset) : 0;
    TRY(file_.read(offset, bytes.first(there)));
    std::ranges::fill(bytes.subspan(there), 0);
    return {};
}

ByteStore::Stretch FileStore::stretch(std::uint64_t offset, std::uint64_t length_max)
{
    return file_.stretch(offset, length_max);
}

}  // namespace qcow2
