// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ScratchFile: the scratch of a backup, in files that have no name: whatever
// becomes of the server, nothing is left behind. They are sparse, and never
// made durable (F5).
//
// ScratchFolder: where they are made: qcow2-scratch=, qcow2-scratch-max=.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/backup/scratch.h"
#include "filter/local_file.h"

namespace qcow2 {

class ScratchFile final : public Scratch {
public:
    // One file has so much: what every file system that matters takes, bytes.
    static constexpr std::uint64_t file_bytes_max = std::uint64_t(4) << 40;

    // For `size` bytes, of which so many may be used. Any errors name the folder, and how
    // another one is named.
    static Result<std::unique_ptr<ScratchFile>> make(const std::string &directory,
                                                     std::uint64_t size, std::uint64_t bytes_max);

    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    void discard(std::uint64_t offset, std::uint64_t length) override;
    std::uint64_t bytes_used() const override { return used_; }
    std::uint64_t bytes_max() const { return bytes_max_; }

private:
    ScratchFile(std::vector<std::unique_ptr<LocalFile>> files, std::uint64_t bytes_max)
        : files_(std::move(files)), bytes_max_(bytes_max)
    {
    }
    template <class Do>
    Result<void> in_each_file(std::uint64_t offset, std::uint64_t length, Do on_part);

    const std::vector<std::unique_ptr<LocalFile>> files_;  // of file_bytes_max each, but the last
    const std::uint64_t bytes_max_;
    std::atomic<std::uint64_t> used_{0};
};

class ScratchFolder final : public ScratchMaker {
public:
    ScratchFolder();  // $TMPDIR, else /var/tmp

    // An absolute path. Refused, as invalid, if nothing can be written there.
    Result<void> set_directory(const std::string &directory);
    // For each backup, bytes.
    void set_bytes_max(std::uint64_t bytes_max) { bytes_max_ = bytes_max; }

    // The file of the image, to be asked about whose room it has.
    void set_image(const std::string &path);

    const std::string &directory() const { return directory_; }

    // The least of what is asked for and what was set; with neither, half of what is free now.
    Result<std::unique_ptr<Scratch>> make(std::uint64_t size,
                                          std::optional<std::uint64_t> bytes_max) override;
    // On one file system.
    bool shares_room() const override { return shares_room_; }

private:
    std::string directory_;
    std::optional<std::uint64_t> bytes_max_;
    bool shares_room_ = false;
};

}  // namespace qcow2
