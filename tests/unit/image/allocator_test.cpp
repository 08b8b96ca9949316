// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the allocator does in orders and crashes is shown elsewhere (order/,
// crash/, model/); this is about how much it reads for it.

#include <boost/test/unit_test.hpp>

#include "core/disk.h"
#include "core/image/create.h"
#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/recording_store.h"

using namespace qcow2;
using namespace qcow2::test;

namespace {

constexpr std::uint64_t cluster = 64 << 10;
constexpr std::uint64_t block_reach = cluster / 2 * cluster;  // 2 GiB

void put(ByteStore &store, std::uint64_t offset, std::uint64_t value, unsigned bytes)
{
    Buffer buffer(bytes);
    for (unsigned i = 0; i < bytes; ++i)
        buffer[i] = static_cast<std::uint8_t>(value >> 8 * (bytes - 1 - i));
    must(store.write(offset, buffer));
}

// An image of so many refcount blocks, each in the first cluster it counts,
// where everything is counted as in use.
StoreImage full_image(std::uint64_t blocks)
{
    MemoryStore store(0);
    must(create_image(store, 64 << 20));
    Buffer word(8);
    must(store.read(48, word));  // refcount_table_offset
    const std::uint64_t table = load_be64(word.data());
    must(store.read(table, word));
    must(store.grow(blocks * block_reach));
    Buffer ones(cluster);
    for (std::size_t i = 1; i < ones.size(); i += 2)
        ones[i] = 1;
    must(store.write(load_be64(word.data()), ones));
    for (std::uint64_t i = 1; i < blocks; ++i) {
        must(store.write(i * block_reach, ones));
        put(store, table + 8 * i, i * block_reach, 8);
    }
    return store.image();
}

std::uint64_t bytes_read(const Recording &recording)
{
    std::uint64_t bytes = 0;
    for (const Operation &operation : recording.operations)
        if (operation.kind == Operation::Kind::read)
            bytes += operation.length;
    return bytes;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(allocator)

// In a full image each cluster that becomes free is found without a look at all
// refcounts behind it.
BOOST_AUTO_TEST_CASE(the_search_for_more_than_one_cluster_ends_soon)
{
    constexpr std::uint64_t blocks = 128;
    StoreOptions options;
    options.can_grow = false;
    MemoryStore memory(full_image(blocks), options);
    // For the L2 table and the data, in the third block.
    put(memory, 2 * block_reach + 2 * 5, 0, 2);
    put(memory, 2 * block_reach + 2 * 9, 0, 2);
    RecordingStore store(memory, true);
    const auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    const std::uint64_t before = bytes_read(store.recording());
    must(disk->write(GuestOffset(0), Buffer(cluster, 1), false));
    BOOST_TEST(bytes_read(store.recording()) - before < blocks / 2 * cluster);
    // There is no more: that is known when all has been seen.
    BOOST_CHECK(disk->write(GuestOffset(cluster), Buffer(cluster, 1), false).error().code ==
                Errc::no_space);
}

BOOST_AUTO_TEST_SUITE_END()
