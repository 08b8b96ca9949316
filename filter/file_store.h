// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FileStore: the bytes of a local file, to be read only. The image is checked
// through it at the prompt, before there is a next layer.
//
// It calls itself writable if the file is, so that the check sees what later
// will be seen; but whoever writes gets an error.

#pragma once

#include <memory>

#include "core/base/read_only_store.h"

namespace qcow2 {

class LocalFile;

class FileStore final : public ReadOnlyStore {
public:
    // The file must outlive the store.
    static Result<std::unique_ptr<FileStore>> open(const LocalFile &file, bool read_only);

    std::uint64_t size() const override { return size_; }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override;
    Result<void> cut(std::uint64_t) override { return {}; }
    bool read_only() const override { return read_only_; }

private:
    FileStore(const LocalFile &file, std::uint64_t size, bool read_only)
        : ReadOnlyStore("the image is only being checked"), file_(file), size_(size), read_only_(read_only)
    {
    }

    const LocalFile &file_;
    const std::uint64_t size_;
    const bool read_only_;
};

}  // namespace qcow2
