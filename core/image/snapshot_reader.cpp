// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/snapshot_reader.h"

#include <algorithm>

#include "core/base/read_only_store.h"
#include "core/format/limits.h"
#include "core/image/image.h"

namespace qcow2 {

namespace {

// For L2 tables: what 30 GiB need at 64K.
constexpr std::uint64_t cache_bytes = 4 << 20;

// No refcounts are read.
constexpr std::uint64_t refcount_cache_bytes = 4096;

// The file as it is now: it ends where it ends, and is only read.
class StoreAsItIs final : public ReadOnlyStore {
public:
    explicit StoreAsItIs(ByteStore &below)
        : ReadOnlyStore("a snapshot is only read"), below_(below), size_(below.size())
    {
    }

    std::uint64_t size() const override { return size_; }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        return below_.read(offset, bytes);
    }
    Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override
    {
        return below_.stretch(offset, length_max);
    }
    bool can_flush() const override { return false; }
    Result<void> shorten(std::uint64_t) override { return refusal(); }

private:
    ByteStore &below_;
    const std::uint64_t size_;
};

bool same(const Snapshot &a, const Snapshot &b)
{
    return a.l1_table_offset == b.l1_table_offset && a.id == b.id && a.name == b.name;
}

}  // namespace

// What reading takes of what an Image has.
class SnapshotReader::Parts {
public:
    Parts(ByteStore &store, const Image &image, const Snapshot &snapshot)
        : below_(store),
          store_(below_),
          header_(store_, image.header().area(), Buffer()),
          allocator_(store_, header_, metadata_, refcount_cache_bytes),
          mapping(store_, header_, metadata_, allocator_, cache_bytes),
          data(store_,
               std::make_unique<CountedClusters>(store_, allocator_,
                                                 image.geometry().cluster_size()),
               mapping, image.header().header(), align_down(snapshot.disk_size, limits::sector))
    {
        data.set_backing(image.backing());
    }

private:
    StoreAsItIs below_;
    GuardedStore store_;
    ImageHeader header_;
    MetadataMap metadata_;
    Allocator allocator_;

public:
    Mapping mapping;
    DataPath data;
};

SnapshotReader::SnapshotReader(const Snapshot &snapshot, std::unique_ptr<Parts> parts)
    : snapshot_(snapshot),
      size_(align_down(snapshot.disk_size, limits::sector)),
      parts_(std::move(parts))
{
}

SnapshotReader::~SnapshotReader() = default;

Result<std::unique_ptr<SnapshotReader>> SnapshotReader::open(ByteStore &store, const Image &image,
                                                             const Snapshot &snapshot)
{
    const Geometry &geometry = image.geometry();
    TRY(check_snapshot(snapshot, geometry));
    if (geometry.data_file)
        return Error(Errc::unsupported,
                     "{}: the clusters of an external data file are written where they are, "
                     "so no snapshot keeps them",
                     words_for(snapshot));
    std::unique_ptr<SnapshotReader> reader(
        new SnapshotReader(snapshot, std::make_unique<Parts>(store, image, snapshot)));
    TRY(reader->parts_->mapping.open(snapshot.l1_table_offset, snapshot.l1_size)
            .in(words_for(snapshot)));
    return reader;
}

Result<void> SnapshotReader::check_range(Range range) const
{
    if (range.end > size_ || range.begin > range.end)  // it goes round
        return Error(Errc::invalid, "the request ends at {:#x}, the snapshot at {:#x}", range.end,
                     size_);
    return {};
}

Result<void> SnapshotReader::read(GuestOffset offset, MutableBytes bytes)
{
    TRY(check_range(Range::of(offset.value, bytes.size())));
    return parts_->data.read(offset, bytes);
}

Result<std::vector<Extent>> SnapshotReader::block_status(GuestOffset offset, std::uint64_t length)
{
    TRY(check_range(Range::of(offset.value, length)));
    return consecutive_extents(offset.value, length,
                               [&](std::uint64_t from, std::uint64_t length_max) {
                                   return parts_->data.status(GuestOffset(from), length_max);
                               });
}

// Readers that have ended are forgotten on the way.
std::shared_ptr<SnapshotReader> ServedSnapshots::find(const Snapshot &snapshot)
{
    std::erase_if(readers_, [](const auto &reader) { return reader.expired(); });
    for (const auto &weak : readers_)
        if (auto reader = weak.lock(); reader && same(reader->snapshot(), snapshot))
            return reader;
    return nullptr;
}

// Two who open one at the same time read its L1 table twice, and one of them wins.
Result<std::shared_ptr<SnapshotReader>> ServedSnapshots::open(ByteStore &store, Image &image,
                                                              std::string_view id_or_name)
{
    const SnapshotTable table = TRY(load_snapshots(image.store(), image.header().header()));
    const Snapshot &snapshot = *TRY(find_snapshot(table, id_or_name));
    {
        Locked lock(mutex_);
        if (auto reader = find(snapshot))
            return reader;
    }
    std::shared_ptr<SnapshotReader> opened = TRY(SnapshotReader::open(store, image, snapshot));
    Locked lock(mutex_);
    if (auto reader = find(snapshot))
        return reader;
    readers_.push_back(opened);
    return opened;
}

Result<void> ServedSnapshots::check_unused(Image &image, std::string_view id_or_name)
{
    const SnapshotTable table = TRY(load_snapshots(image.store(), image.header().header()));
    const Snapshot &snapshot = *TRY(find_snapshot(table, id_or_name));
    Locked lock(mutex_);
    const auto reader = find(snapshot);
    if (!reader)
        return {};
    const long clients = reader.use_count() - 1;
    return Error(Errc::busy, "{} is being served to {}{}; let them disconnect first",
                 words_for(snapshot), clients, clients == 1 ? " client" : " clients");
}

}  // namespace qcow2
