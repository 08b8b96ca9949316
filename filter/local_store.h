// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// LocalStore: a local file as a store, through our own descriptor: files that
// the image names, and the image itself when a maintenance key works on it
// before there is a next layer. Read-only if the file is.
//
// ReadOnlyLocalStore: the same for who only reads: the image is checked through
// it at the prompt. It calls itself writable if the file is, so that the check
// sees what later will be seen; but whoever writes gets an error.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/base/mutex.h"
#include "core/base/read_only_store.h"

namespace qcow2 {

class LocalFile;

class LocalStore : public ByteStore {
public:
    // The file must outlive the store. size: its length.
    LocalStore(LocalFile &file, std::uint64_t size) : file_(file), size_(size), fresh_from_(size) {}

    std::uint64_t size() const override { return size_; }
    std::uint64_t fresh_from() const override { return fresh_from_; }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override;
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) override;
    Result<void> discard(std::uint64_t offset, std::uint64_t length) override;
    Result<void> flush() override;
    bool can_flush() const override { return true; }
    Result<void> grow(std::uint64_t size_min) override;
    bool can_grow() const override;
    Result<void> cut(std::uint64_t size) override;
    Result<void> shorten(std::uint64_t size) override;
    bool read_only() const override;

    // Somebody has made it longer.
    void follow(std::uint64_t size);

private:
    LocalFile &file_;
    std::atomic<std::uint64_t> size_;
    const std::uint64_t fresh_from_;
    Mutex mutex_{Rank::store};  // who makes it longer or shorter
};

class ReadOnlyLocalStore final : public ReadOnlyStore {
public:
    // The file must outlive the store.
    static Result<std::unique_ptr<ReadOnlyLocalStore>> open(const LocalFile &file, bool read_only);

    std::uint64_t size() const override { return size_; }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override;
    Result<void> cut(std::uint64_t) override { return {}; }
    bool read_only() const override { return read_only_; }

private:
    ReadOnlyLocalStore(const LocalFile &file, std::uint64_t size, bool read_only)
        : ReadOnlyStore("the image is only being checked"),
          file_(file),
          size_(size),
          read_only_(read_only)
    {
    }

    const LocalFile &file_;
    const std::uint64_t size_;
    const bool read_only_;
};

}  // namespace qcow2
