// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/barrier.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "core/base/arith.h"
#include "filter/local_file.h"

namespace qcow2 {

Barrier::Barrier(LocalFile &file)
    : file_(file), page_bytes_(static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)))
{
    INVARIANT(file.writable());
}

bool Barrier::differs(std::uint64_t offset, Bytes bytes) const
{
    Buffer found(bytes.size());
    return file_.read(offset, found) && !std::equal(bytes.begin(), bytes.end(), found.begin());
}

bool Barrier::holds(std::uint64_t offset, Bytes bytes) const
{
    Buffer found(bytes.size());
    return file_.read(offset, found) && std::equal(bytes.begin(), bytes.end(), found.begin());
}

// The mapping is never touched: behind the end of a file that somebody has
// shortened meanwhile that would be a SIGBUS.
Result<bool> Barrier::make_durable(Range bytes)
{
    const std::uint64_t begin = align_down(bytes.begin, page_bytes_);
    const std::uint64_t size = align_up(bytes.end, page_bytes_) - begin;
    void *const mapped =
        ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file_.descriptor(), static_cast<off_t>(begin));
    if (mapped == MAP_FAILED)
        return false;
    const int failed = ::msync(mapped, size, MS_SYNC) == -1 ? errno : 0;
    ::munmap(mapped, size);
    if (failed != 0)
        return Error(Errc::io, "making {} bytes at {:#x} durable: {}", bytes.length(), bytes.begin,
                     std::strerror(failed));
    return true;
}

}  // namespace qcow2
