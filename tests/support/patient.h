// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Patient: a sound image that can be made wrong, word by word.

#pragma once

#include <boost/test/unit_test.hpp>

#include "core/format/refcount_block.h"
#include "core/format/table_entry.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"

namespace qcow2::test {

// As `head -c SIZE` leaves it.
inline StoreImage cut(StoreImage image, std::uint64_t size)
{
    image.bytes.zero(size, image.size - size);
    image.size = size;
    return image;
}

class Patient {
public:
    explicit Patient(const ImageSpec &spec) : built_(build_image(spec)), store_(built_.image) {}
    // What a Disk has left.
    explicit Patient(const StoreImage &image)
        : built_{image, ReferenceDisk(0), area_of(image), {}}, store_(image)
    {
    }

    MemoryStore &store() { return store_; }
    const ReferenceDisk &reference() const { return built_.reference; }
    const Header &header() const { return built_.area.header; }
    Geometry geometry() const { return header().geometry(); }
    std::uint64_t cluster_size() const { return geometry().cluster_size(); }

    std::uint64_t word(std::uint64_t offset)
    {
        Buffer bytes(8);
        BOOST_REQUIRE(store_.read(offset, bytes));
        return load_be64(bytes.data());
    }
    void put(std::uint64_t offset, std::uint64_t value)
    {
        Buffer bytes(8);
        store_be64(bytes.data(), value);
        BOOST_REQUIRE(store_.write(offset, bytes));
    }
    void put_32(std::uint64_t offset, std::uint32_t value)
    {
        Buffer bytes(8);
        store_be64(bytes.data(), value);
        BOOST_REQUIRE(store_.write(offset, sub(Bytes(bytes), 4, 4)));
    }
    void put_byte(std::uint64_t offset, std::uint8_t value)
    {
        BOOST_REQUIRE(store_.write(offset, Buffer{value}));
    }

    std::uint64_t l1(std::uint64_t index) const
    {
        return header().l1_table_offset.value + index * 8;
    }
    std::uint64_t l2(std::uint64_t guest_cluster)
    {
        const GuestCluster c(guest_cluster);
        return (word(l1(geometry().l1_index(c))) & entry_offset_mask) + geometry().l2_index(c) * 8;
    }
    std::uint64_t host(std::uint64_t guest_cluster)
    {
        return word(l2(guest_cluster)) & entry_offset_mask;
    }

    // All images here have one refcount block.
    std::uint64_t refcount_block() { return word(header().refcount_table_offset.value); }
    void set_refcount(std::uint64_t host_offset, std::uint64_t value)
    {
        Buffer block(cluster_size());
        BOOST_REQUIRE(store_.read(refcount_block(), block));
        store_refcount(block, header().refcount_order, host_offset >> header().cluster_bits, value);
        BOOST_REQUIRE(store_.write(refcount_block(), block));
    }
    // One more cluster at the end of the file, with refcount 0.
    std::uint64_t new_cluster()
    {
        const std::uint64_t at = align_up(store_.size(), cluster_size());
        BOOST_REQUIRE(store_.grow(at + cluster_size()));
        return at;
    }

    const BitmapDirectoryEntry &bitmap() const { return built_.bitmaps.at(0); }
    std::uint64_t directory() const
    {
        return load_be64(&built_.area.find(ExtensionType::bitmaps)->data[16]);
    }
    std::uint64_t snapshots() const { return header().snapshots_offset.value; }

private:
    static HeaderArea area_of(const StoreImage &image)
    {
        ImageView view(image);
        return must(ImageReader::open(view)).area();
    }

    BuiltImage built_;
    MemoryStore store_;
};

}  // namespace qcow2::test
