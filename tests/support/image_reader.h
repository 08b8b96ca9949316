// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What stands in a qcow2 file, read by the decoders of core/format alone: a
// second opinion on the engine's reading, and a look at the file while the
// engine has it open. No caches, no writing, one thread.

#pragma once

#include <string>
#include <vector>

#include "core/base/bit_vector.h"
#include "core/base/read_only_store.h"
#include "core/format/bitmap_directory.h"
#include "core/format/extensions.h"
#include "core/format/table_entry.h"
#include "tests/support/memory_store.h"

namespace qcow2::test {

struct StoredBitmap {
    BitmapDirectoryEntry entry;
    std::vector<BitmapTableEntry> table;
    BitVector bits;
};

class ImageReader {
public:
    // The store must outlive it.
    static Result<ImageReader> open(ByteStore &store);

    const HeaderArea &area() const { return area_; }
    std::uint64_t disk_size() const { return area_.header.disk_size(); }

    // What the guest would read; compressed clusters are an error.
    Result<void> read(GuestOffset offset, MutableBytes bytes) const;
    // The L2 entry of a guest cluster, 0 if there is no L2 table.
    Result<std::uint64_t> l2_entry(GuestCluster cluster) const;
    Result<std::uint64_t> refcount(HostCluster cluster) const;

    // Where the bitmap directory is; nullopt if there is none that autoclear
    // bit 0 vouches for.
    std::optional<BitmapsExtension> bitmaps_extension() const;
    // Those that autoclear bit 0 vouches for.
    Result<std::vector<StoredBitmap>> bitmaps() const;

private:
    ImageReader(ByteStore &store, HeaderArea area) : store_(&store), area_(std::move(area)) {}

    Result<std::uint64_t> word(std::uint64_t offset) const;
    // Whether there is nothing else.
    Result<bool> zeros(std::uint64_t offset, std::uint64_t length) const;
    Result<StoredBitmap> bitmap(const BitmapDirectoryEntry &entry) const;

    ByteStore *store_;
    HeaderArea area_;
};

// A store that only answers reads, over bytes that do not change.
class ImageView final : public ReadOnlyStore {
public:
    explicit ImageView(const StoreImage &image) : ReadOnlyStore("this is a view"), image_(image) {}

    std::uint64_t size() const override { return image_.size; }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        image_.bytes.read(offset, bytes);
        return {};
    }

private:
    const StoreImage &image_;
};

}  // namespace qcow2::test
