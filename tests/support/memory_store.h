// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// MemoryStore: a ByteStore in memory, with the knobs that real stores have.
// A write to a read-only store ends the test: the engine must not try.

#pragma once

#include <mutex>

#include "core/base/byte_store.h"
#include "tests/support/sparse_bytes.h"
#include "tests/support/stirrer.h"

namespace qcow2::test {

// What a discarded byte reads as.
enum class Discarded { zero, kept, garbage };

struct StoreOptions {
    bool can_flush = true;
    // write_durable() makes nothing else durable.
    bool durable_alone = false;
    bool read_only = false;
    bool can_grow = true;
    // grow() rounds up to a multiple of this, as far as the limit lets it.
    std::uint64_t growth_step = 1;
    // grow() beyond this: no_space.
    std::uint64_t size_limit = ~std::uint64_t(0);
    Discarded discarded = Discarded::garbage;
    // Threads take turns at the doors of the store, by this seed; 0: not.
    std::uint64_t stirred = 0;
};

// The bytes of a file and its length: what is left of a store.
struct StoreImage {
    SparseBytes bytes;
    std::uint64_t size = 0;
};

class MemoryStore : public ByteStore {
public:
    explicit MemoryStore(std::uint64_t size, StoreOptions options = {});
    explicit MemoryStore(StoreImage image, StoreOptions options = {});

    std::uint64_t size() const override;
    std::uint64_t fresh_from() const override;
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) override;
    Result<void> discard(std::uint64_t offset, std::uint64_t length) override;
    Result<void> flush() override;
    bool can_flush() const override { return options_.can_flush; }
    bool durable_alone() const override { return options_.durable_alone; }
    Result<void> grow(std::uint64_t size_min) override;
    bool can_grow() const override { return options_.can_grow; }
    Result<void> cut(std::uint64_t size) override;
    bool read_only() const override { return options_.read_only; }

    // As another process would find it now.
    StoreImage image() const;
    // As if another process had done it.
    void replace(StoreImage image);

private:
    Result<void> check_range(std::uint64_t offset, std::uint64_t length) const;

    const StoreOptions options_;
    Stirrer stirrer_;
    // No lock of the engine: it may be taken under any of them.
    mutable std::mutex mutex_;
    // Guarded by it:
    StoreImage image_;
    std::uint64_t fresh_from_;
};

}  // namespace qcow2::test
