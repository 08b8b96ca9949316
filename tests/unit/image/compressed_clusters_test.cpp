// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/compressed_clusters.h"

#include <boost/test/unit_test.hpp>

#include <new>

#include "tests/support/memory_store.h"
#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;

namespace {

constexpr std::uint64_t cluster_size = 512;

// What is not there reads as an error, or as an exception.
class Absent final : public MemoryStore {
public:
    using MemoryStore::MemoryStore;
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        if (throws)
            throw std::bad_alloc();
        return fails ? Result<void>(Error(Errc::io, "not now")) : MemoryStore::read(offset, bytes);
    }
    bool throws = false, fails = false;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(compressed_clusters)

// Else the next one would wait for it for ever.
BOOST_AUTO_TEST_CASE(what_could_not_be_read_is_tried_again)
{
    Absent store(4096);
    // RFC 1951: one block, the last, stored as it is.
    Buffer packed{1, 0x00, 0x02, 0xff, 0xfd};
    packed.resize(packed.size() + cluster_size, 7);
    must(store.write(1024, packed));
    CompressedClusters clusters(store, CompressionType::deflate, cluster_size);
    const Compressed compressed{HostOffset(1024), packed.size()};
    store.throws = true;
    BOOST_CHECK_THROW((void)clusters.get(compressed), std::bad_alloc);
    store.throws = false;
    store.fails = true;
    BOOST_TEST(!clusters.get(compressed));
    store.fails = false;
    BOOST_TEST((*must(clusters.get(compressed)) == Buffer(cluster_size, 7)));
}

BOOST_AUTO_TEST_SUITE_END()
