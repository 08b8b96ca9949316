// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What filter/ calls of nbdkit, without a server: messages, parsers, and a next
// layer that is as strict as the real one. Where nbdkit would stop the server
// (a request past the size of the context, a question that was not asked), a
// fake context aborts.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <nbdkit-filter.h>

#include "core/base/bytes.h"
#include "core/base/range.h"
#include "filter/local_file.h"

namespace qcow2::test {

// What was said by nbdkit_error since the last call.
std::vector<std::string> said();

// Whether the server has got a signal.
inline std::atomic<bool> told_to_end{false};

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

struct FakeLayer {
    explicit FakeLayer(FakeBytes &bytes) : bytes(bytes) {}

    nbdkit_backend *backend() { return reinterpret_cast<nbdkit_backend *>(this); }

    FakeBytes &bytes;

    // What it says of itself.
    std::uint32_t minimum = 0, preferred = 0, maximum = 0;
    bool writable = true, flushes = true, trims = true, multi_conn = true;
    int zeroes = NBDKIT_ZERO_NATIVE;
    std::optional<Range> hole;  // the only one; nullopt: it does not tell
    std::int64_t size_is = -1;  // not that of the bytes

    // What it does, besides what is asked.
    std::function<int(const char *call, const Range &range)> before;  // an errno refuses
    std::atomic<unsigned> contexts_open{0}, contexts_opened{0}, flushes_done{0};
    std::atomic<unsigned> calls_at_once{0}, calls_at_once_max{0};

    std::mutex mutex;
    std::vector<std::string> calls;  // "pwrite 0x200 +512"
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
