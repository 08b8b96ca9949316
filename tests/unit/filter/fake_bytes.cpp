// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/unit/filter/fake_bytes.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/base/arith.h"
#include "core/base/invariant.h"

namespace qcow2::test {

int FakeMemory::read(std::uint64_t offset, MutableBytes to)
{
    INVARIANT(fits(offset, to.size(), bytes.size()));
    std::memcpy(to.data(), bytes.data() + offset, to.size());
    return 0;
}

int FakeMemory::write(std::uint64_t offset, Bytes from)
{
    INVARIANT(fits(offset, from.size(), bytes.size()));
    std::memcpy(bytes.data() + offset, from.data(), from.size());
    return 0;
}

FakeFile::FakeFile(const std::string &path, bool for_writing)
    : path_(path), for_writing_(for_writing), descriptor_(open_again())
{
    INVARIANT(descriptor_ != -1);
}

FakeFile::~FakeFile() { ::close(descriptor_); }

int FakeFile::open_again()
{
    return ::open(path_.c_str(), (for_writing_ ? O_RDWR : O_RDONLY) | O_CLOEXEC);
}

std::uint64_t FakeFile::size()
{
    const off_t end = ::lseek(descriptor_, 0, SEEK_END);
    INVARIANT(end != -1);
    return static_cast<std::uint64_t>(end);
}

int FakeFile::read(std::uint64_t offset, MutableBytes to)
{
    const ssize_t n = ::pread(descriptor_, to.data(), to.size(), static_cast<off_t>(offset));
    return n == -1 ? errno : static_cast<std::size_t>(n) == to.size() ? 0 : EIO;
}

int FakeFile::write(std::uint64_t offset, Bytes from)
{
    const ssize_t n = ::pwrite(descriptor_, from.data(), from.size(), static_cast<off_t>(offset));
    return n == -1 ? errno : static_cast<std::size_t>(n) == from.size() ? 0 : EIO;
}

TemporaryFile::TemporaryFile(std::uint64_t size)
{
    const char *folder = std::getenv("TMPDIR");
    path_ = std::string(folder ? folder : "/tmp") + "/qcow2bitmap-XXXXXX";
    const int descriptor = ::mkstemp(path_.data());
    INVARIANT(descriptor != -1 && ::ftruncate(descriptor, static_cast<off_t>(size)) == 0);
    ::close(descriptor);
}

TemporaryFile::~TemporaryFile() { ::unlink(path_.c_str()); }

std::uint64_t TemporaryFile::size() const { return FakeFile(path_, false).size(); }

Buffer TemporaryFile::content() const
{
    FakeFile file(path_, false);
    Buffer bytes(file.size());
    INVARIANT(file.read(0, bytes) == 0);
    return bytes;
}

}  // namespace qcow2::test
