// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/compressed_clusters.h"

#include <boost/test/unit_test.hpp>

#include <chrono>
#include <new>
#include <thread>

#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/recording_store.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(compressed_clusters)

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

// Raw deflate, one stored block of 512 bytes.
Buffer stored(std::uint8_t fill)
{
    Buffer bytes = {0x01, 0x00, 0x02, 0xff, 0xfd};
    bytes.resize(bytes.size() + cluster_size, fill);
    return bytes;
}

// So slow that all who want the same come meanwhile.
class SlowStore final : public ByteStore {
public:
    explicit SlowStore(ByteStore &base) : base_(base) {}

    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        return base_.read(offset, bytes);
    }
    std::uint64_t size() const override { return base_.size(); }
    std::uint64_t fresh_from() const override { return base_.fresh_from(); }
    Result<void> write(std::uint64_t o, Bytes b) override { return base_.write(o, b); }
    Result<void> zero(std::uint64_t o, std::uint64_t l, bool u) override
    {
        return base_.zero(o, l, u);
    }
    Result<void> discard(std::uint64_t o, std::uint64_t l) override { return base_.discard(o, l); }
    Result<void> flush() override { return base_.flush(); }
    bool can_flush() const override { return base_.can_flush(); }
    Result<void> grow(std::uint64_t size) override { return base_.grow(size); }
    bool can_grow() const override { return base_.can_grow(); }
    Result<void> cut(std::uint64_t size) override { return base_.cut(size); }
    bool read_only() const override { return base_.read_only(); }

private:
    ByteStore &base_;
};

}  // namespace

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

BOOST_AUTO_TEST_CASE(who_wants_the_same_cluster_at_once_waits_for_one_read)
{
    constexpr int threads = 8, clusters = 2;
    MemoryStore memory(8192);
    for (std::uint8_t i = 0; i < clusters; ++i)
        must(memory.write(1024 * i, stored(i)));
    RecordingStore recorded(memory, true);
    SlowStore slow(recorded);
    CompressedClusters kept(slow, CompressionType::deflate, cluster_size);
    bool right[threads] = {};
    std::vector<std::thread> readers;
    for (int t = 0; t < threads; ++t)
        readers.emplace_back([&kept, &right, t] {
            const int i = t % clusters;
            const auto cluster = kept.get({HostOffset(1024 * static_cast<unsigned>(i)), 1024});
            right[t] = cluster && **cluster == Buffer(cluster_size, static_cast<std::uint8_t>(i));
        });
    for (std::thread &reader : readers)
        reader.join();
    for (const bool is : right)
        BOOST_TEST(is);
    BOOST_TEST(recorded.recording().operations.size() == unsigned(clusters));
    // Nor is it read again.
    must(kept.get({HostOffset(0), 1024}));
    BOOST_TEST(recorded.recording().operations.size() == unsigned(clusters));
}

BOOST_AUTO_TEST_SUITE_END()
