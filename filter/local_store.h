// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// LocalStore: a local file as a store, through our own descriptor: files that
// the image names, and the image itself when a maintenance key works on it
// before there is a next layer. Read-only if the file is.

#pragma once

#include <atomic>
#include <cstdint>

#include "core/base/byte_store.h"
#include "core/base/mutex.h"

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

}  // namespace qcow2
