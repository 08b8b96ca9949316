// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What stands around FrozenDisks, in memory: a disk with a gate, changes that ask
// before they go down, and scratch that can be full, fail or be slow.
//
//     FreezableDisk disk(64 << 10);
//     disk.write({0, 512}, 1);
//     MemoryScratch *scratch;
//     const auto frozen = disk.freeze("mon", scratch);
//     disk.write({0, 512}, 2);
//     must(frozen->read(...));

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/backup/frozen_disks.h"
#include "core/base/gate.h"
#include "tests/support/must.h"
#include "tests/support/stirrer.h"

namespace qcow2::test {

// The disk itself, for those who are inside of the gate. One byte after the other under a lock,
// so that a read may see a part of a change, as with a real one.
class InnerDisk final : public LiveDisk {
public:
    // What is no multiple of this is a part of an extent of data.
    static constexpr std::uint64_t extent_bytes = 512;

    explicit InnerDisk(std::uint64_t size) : bytes_(size), data_(div_ceil(size, extent_bytes)) {}

    Result<void> read(GuestOffset offset, MutableBytes bytes) override;
    Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) override;

    void write(Range range, std::uint8_t value);
    void zero(Range range);  // and a hole, where it is whole
    void grow(std::uint64_t size);
    std::uint64_t size() const;
    Buffer content() const;
    bool is_data(std::uint64_t offset) const;

    // What touches this range cannot be read. Set while nobody is reading.
    Range unreadable;
    std::atomic<unsigned> reads{0}, status_calls{0};
    Stirrer stirrer;

private:
    mutable std::mutex mutex_;
    Buffer bytes_;
    std::vector<bool> data_;  // of each extent_bytes
};

class MemoryScratch final : public Scratch {
public:
    explicit MemoryScratch(std::uint64_t size, std::uint64_t bytes_max = ~std::uint64_t(0))
        : bytes_(size), bytes_max_(bytes_max)
    {
        ++alive;
    }
    ~MemoryScratch() { --alive; }

    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    void discard(std::uint64_t offset, std::uint64_t length) override;
    std::uint64_t bytes_used() const override { return used_; }

    std::function<Result<void>()> on_read, on_write;  // set while nobody is inside
    std::atomic<unsigned> reads{0}, writes{0};
    static inline std::atomic<int> alive{0};

private:
    std::mutex mutex_;
    Buffer bytes_;
    std::vector<bool> written_ = std::vector<bool>(bytes_.size());
    const std::uint64_t bytes_max_;
    std::atomic<std::uint64_t> used_{0};
};

class MemoryScratchMaker final : public ScratchMaker {
public:
    Result<std::unique_ptr<Scratch>> make(std::uint64_t size,
                                          std::optional<std::uint64_t> bytes_max) override
    {
        return std::unique_ptr<Scratch>(
            std::make_unique<MemoryScratch>(size, bytes_max.value_or(~std::uint64_t(0))));
    }
};

// As Disk is: changes pass the gate, readers of frozen disks pass it by themselves.
class FreezableDisk final : public LiveDisk {
public:
    explicit FreezableDisk(std::uint64_t size,
                           FrozenDisks::Duration waiting_max = FrozenDisks::waiting_max)
        : inner(size), frozen(*this, waiting_max)
    {
    }

    Result<void> read(GuestOffset offset, MutableBytes bytes) override;
    Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) override;

    void write(Range range, std::uint8_t value);
    void zero(Range range);
    void trim(Range range);
    void grow(std::uint64_t size);

    // was: what the disk is at that instant.
    std::shared_ptr<FrozenDisk> freeze(const std::string &name, std::unique_ptr<Scratch> scratch,
                                       std::shared_ptr<const Needed> needed = nullptr,
                                       Buffer *was = nullptr);
    // With a scratch in memory, which the caller may look at as long as it runs.
    std::shared_ptr<FrozenDisk> freeze(const std::string &name, MemoryScratch *&scratch,
                                       std::shared_ptr<const Needed> needed = nullptr);
    std::shared_ptr<FrozenDisk> freeze(const std::string &name);

    InnerDisk inner;
    FrozenDisks frozen;
    std::atomic<unsigned> broken{0};  // heard of
    // When a reader of a frozen disk, outside of the gate, is about to ask for bytes, or extents.
    // Set while nobody is reading.
    std::function<void()> on_live_read;

private:
    Gate gate_{Rank::gate};
};

// Needed: these ranges of blocks.
class NeededRanges final : public Needed {
public:
    explicit NeededRanges(std::vector<Range> ranges) : ranges_(std::move(ranges)) {}
    Run run(Range blocks) const override;

private:
    const std::vector<Range> ranges_;
};

Buffer read_all(FrozenDisk &disk);

}  // namespace qcow2::test
