// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the tests of order share: an image under a RecordingStore, and ways to
// find in the recording the write that changed a certain word.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "core/disk.h"
#include "core/format/cluster_mapping.h"
#include "tests/support/fault_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/recording_store.h"

namespace qcow2::test {

class Order {
public:
    explicit Order(const ImageSpec &spec, StoreOptions options = {}, DiskOptions disk_options = {})
        : built_(build_image(spec)),
          geometry_(spec.geometry()),
          memory_(with_room(built_, options), options),
          faults_(memory_, plan_),
          store_(faults_),
          disk_options_(disk_options),
          disk_(must(Disk::open(store_, disk_options)))
    {
    }

    Disk &disk() { return *disk_; }
    RecordingStore &store() { return store_; }
    MemoryStore &memory() { return memory_; }
    // In the same process, and without a word from the one before.
    void open_again()
    {
        disk_.reset();
        disk_ = must(Disk::open(store_, disk_options_));
    }
    FaultPlan &plan() { return plan_; }
    const BuiltImage &built() const { return built_; }
    const Geometry &geometry() const { return geometry_; }
    Recording recording() const { return store_.recording(); }
    std::uint64_t now() const { return store_.now(); }
    StoreImage image() const { return memory_.image(); }

    // The guest cluster, whole, of this generation.
    void write(std::uint64_t cluster, std::uint32_t generation)
    {
        const GuestOffset offset(cluster << geometry_.cluster_bits);
        must(disk_->write(offset, payload(offset, geometry_.cluster_size(), generation), false));
    }
    void trim(std::uint64_t cluster)
    {
        must(disk_->trim(GuestOffset(cluster << geometry_.cluster_bits), geometry_.cluster_size(),
                         false));
    }

    // --- The file as it is now.

    template <class Look>
    auto look(Look look_at) const
    {
        const StoreImage image = memory_.image();
        ImageView view(image);
        return look_at(must(ImageReader::open(view)));
    }
    HostOffset host_of(std::uint64_t cluster) const
    {
        return look([&](const ImageReader &reader) {
            const std::uint64_t entry = must(reader.l2_entry(GuestCluster(cluster)));
            return HostOffset(entry & entry_offset_mask);
        });
    }
    // Where the L2 entry of a guest cluster stands, and its L1 entry.
    HostOffset l1_place(std::uint64_t cluster) const
    {
        return look([&](const ImageReader &reader) {
            return reader.area().header.l1_table_offset +
                   geometry_.l1_index(GuestCluster(cluster)) * 8;
        });
    }
    HostOffset l2_table(std::uint64_t cluster) const
    {
        std::uint8_t raw[8];
        memory_.image().bytes.read(l1_place(cluster).value, raw);
        return HostOffset(load_be64(raw) & entry_offset_mask);
    }
    HostOffset l2_place(std::uint64_t cluster) const
    {
        return l2_table(cluster) + geometry_.l2_index(GuestCluster(cluster)) * 8;
    }
    // Of widths of whole bytes.
    HostOffset refcount_place(HostOffset cluster) const
    {
        const std::uint64_t index = geometry_.cluster_of(cluster).value;
        std::uint8_t raw[8];
        const std::uint64_t table = look([](const ImageReader &reader) {
            return reader.area().header.refcount_table_offset.value;
        });
        memory_.image().bytes.read(table + (index >> geometry_.refcount_block_bits()) * 8, raw);
        return HostOffset(load_be64(raw)) +
               (index & (geometry_.refcount_block_entries() - 1)) * geometry_.refcount_bits() / 8;
    }

private:
    // A store of fixed size has room behind the image.
    static StoreImage with_room(const BuiltImage &built, const StoreOptions &options)
    {
        StoreImage image = built.image;
        if (!options.can_grow && options.size_limit != ~std::uint64_t(0))
            image.size = options.size_limit;
        return image;
    }

    const BuiltImage built_;
    const Geometry geometry_;
    MemoryStore memory_;
    FaultPlan plan_;
    FaultStore faults_;
    RecordingStore store_;
    const DiskOptions disk_options_;
    std::unique_ptr<Disk> disk_;
};

// The big-endian word of some bytes that a write put at a place; nullopt if it
// did not cover it.
inline std::optional<std::uint64_t> word_of(const Operation &operation, HostOffset place,
                                            unsigned bytes)
{
    if (operation.kind != Operation::Kind::write &&
        operation.kind != Operation::Kind::write_durable)
        return std::nullopt;
    if (!operation.range().contains(Range::of(place.value, bytes)))
        return std::nullopt;
    std::uint64_t word = 0;
    for (unsigned i = 0; i < bytes; ++i)
        word = word << 8 | operation.data[place.value - operation.offset + i];
    return word;
}

// The index of the first write at or after `from` that puts such a word there;
// the number of operations if there is none.
inline std::size_t find_word(const Recording &recording, std::size_t from, HostOffset place,
                             unsigned bytes, const std::function<bool(std::uint64_t)> &such)
{
    return recording.find(from, [&](const Operation &operation) {
        const auto word = word_of(operation, place, bytes);
        return word && such(*word);
    });
}

// True if all bytes of the range were written by operations that were durable
// before the event.
inline bool durably_written(const Recording &recording, Range range, std::uint64_t event)
{
    std::vector<Range> parts;
    for (const Operation &operation : recording.operations)
        if (operation.writes() && recording.is_durable(operation, event))
            parts.push_back(operation.range());
    std::sort(parts.begin(), parts.end(),
              [](const Range &a, const Range &b) { return a.begin < b.begin; });
    std::uint64_t at = range.begin;
    for (const Range &part : parts)
        if (part.begin <= at)
            at = std::max(at, part.end);
    return at >= range.end;
}

inline DiskOptions with_new_bitmap()
{
    DiskOptions options;
    options.bitmaps = {"new"};
    return options;
}

inline ImageSpec order_spec()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 8 << 20;
    spec.clusters = {{0, Preset::data}, {1, Preset::data}, {2, Preset::zero_with_cluster}};
    return spec;
}

}  // namespace qcow2::test
