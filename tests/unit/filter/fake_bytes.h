// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The bytes of a fake layer: in memory, or in a file, which may go with its scope.

#pragma once

#include <cstdint>
#include <string>

#include "core/base/bytes.h"

namespace qcow2::test {

// The bytes of a layer.
class FakeBytes {
public:
    virtual ~FakeBytes() = default;
    virtual std::uint64_t size() = 0;
    virtual int read(std::uint64_t offset, MutableBytes bytes) = 0;  // 0 or an errno
    virtual int write(std::uint64_t offset, Bytes bytes) = 0;
    // For a context: another descriptor, by the name; -1 with an errno, or without
    // one if this is no file.
    virtual int open_again() { return -1; }
};

class FakeMemory : public FakeBytes {
public:
    explicit FakeMemory(std::uint64_t size) : bytes(size) {}
    std::uint64_t size() override { return bytes.size(); }
    int read(std::uint64_t offset, MutableBytes to) override;
    int write(std::uint64_t offset, Bytes from) override;

    Buffer bytes;
};

// A file, as the file plugin would serve it: each context has a descriptor.
class FakeFile : public FakeBytes {
public:
    FakeFile(const std::string &path, bool for_writing);
    ~FakeFile() override;
    std::uint64_t size() override;
    int read(std::uint64_t offset, MutableBytes to) override;
    int write(std::uint64_t offset, Bytes from) override;
    int open_again() override;

private:
    const std::string path_;
    const bool for_writing_;
    const int descriptor_;
};

// A file of its own that goes with the scope.
class TemporaryFile {
public:
    explicit TemporaryFile(std::uint64_t size);
    ~TemporaryFile();
    TemporaryFile(const TemporaryFile &) = delete;
    TemporaryFile &operator=(const TemporaryFile &) = delete;

    const std::string &path() const { return path_; }
    std::uint64_t size() const;
    Buffer content() const;

private:
    std::string path_;
};

}  // namespace qcow2::test
