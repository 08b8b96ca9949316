// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Prepared: a disk on which a thread that changes the structure is held where it first writes
// aside, so that a test does something during the preparation. Waiters: threads that have to
// wait as long.

#pragma once

#include <boost/test/unit_test.hpp>

#include "core/base/log.h"
#include "core/bitmap/dirty_bits.h"
#include "core/disk.h"
#include "tests/order/order.h"
#include "tests/support/held_store.h"
#include "tests/support/patient.h"
#include "tests/support/verdict.h"
#include "tests/support/waiting_thread.h"

namespace qcow2::test {

inline constexpr std::uint64_t cluster_bytes = 4096;
// The guest has these clusters; the others have never been written to.
inline constexpr std::uint64_t mapped = 64;

inline ImageSpec mostly_empty()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 3 * DirtyBits::page_bits * cluster_bytes;  // a cluster of bits is a page here
    for (std::uint64_t cluster = 0; cluster < mapped; ++cluster)
        spec.clusters[cluster] = Preset::data;
    spec.bitmaps = {{.name = "b0",
                     .granularity_bits = 12,
                     .set = {{DirtyBits::page_bits - 1, DirtyBits::page_bits}},
                     .extra_data = {}}};
    return spec;
}

// The disk, and what it should be.
class Prepared {
public:
    explicit Prepared(const DiskOptions &options = {})
        : Prepared(build_image(mostly_empty()), options)
    {
    }
    Prepared(const BuiltImage &built, const DiskOptions &options)
        : expected(built.reference),
          store(built.image),
          disk(must(Disk::open(store, options))),
          end_(store.size())
    {
        set_log_sink([](LogLevel, const std::string &line) {
            prepared_again += line.find("it is prepared again") != std::string::npos;
        });
        must(disk->begin_writing());
        must(disk->settle());
        end_ = store.size();
    }
    ~Prepared() { set_log_sink(nullptr); }
    // After a clean stop, by us and by QEMU.
    void judge()
    {
        must(disk->close());
        BOOST_TEST(clean_stop_verdict(store.image(), expected) == "");
        BOOST_TEST(qemu_verdict(store.image(), false) == "");
    }

    // Does `change` in a thread, and `meanwhile` while it prepares; then what it returns. When it
    // commits nobody passes. again: how often it was disturbed.
    Result<void> during(const std::function<Result<void>()> &change,
                        const std::function<void()> &meanwhile, unsigned again = 0)
    {
        may_go = has_flushed = false;
        prepares = false;
        prepared_again = 0;
        store.before_write = [this](std::uint64_t offset, bool) {
            if (std::this_thread::get_id() != who.load())
                return;
            if (offset == 0 && prepares) {
                flusher = std::thread([this] {
                    must(disk->flush());
                    has_flushed = true;
                });
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
                BOOST_TEST(!has_flushed);
            }
            if (offset >= end_ && !prepares.exchange(true))
                wait_for(may_go);
        };
        Result<void> done;
        std::thread thread([&] {
            who = std::this_thread::get_id();
            done = change();
            who = std::thread::id();
        });
        BOOST_TEST_REQUIRE(comes_true([&] { return prepares.load(); }));
        meanwhile();
        may_go = true;
        thread.join();
        if (flusher.joinable())
            flusher.join();
        BOOST_TEST(prepared_again == again);
        return done;
    }

    void write(std::uint64_t cluster, std::uint32_t generation)
    {
        const GuestOffset offset(cluster * cluster_bytes);
        const Buffer bytes = payload(offset, cluster_bytes, generation);
        must(disk->write(offset, bytes, false));
        expected.write(offset, bytes);
    }
    std::string differs(std::uint64_t cluster)
    {
        Buffer found(cluster_bytes);
        must(disk->read(GuestOffset(cluster * cluster_bytes), found));
        return expected.difference(GuestOffset(cluster * cluster_bytes), found);
    }
    Buffer in_snapshot(const std::string &name, std::uint64_t cluster)
    {
        Buffer found(cluster_bytes);
        must(must(disk->open_snapshot(name))->read(GuestOffset(cluster * cluster_bytes), found));
        return found;
    }
    Result<void> make(const std::string &name) { return disk->create_snapshot({name, 0, 0}); }
    // All clusters but this one are shared then.
    void make_and_write(const std::string &name, std::uint64_t cluster)
    {
        must(make(name));
        write(cluster, 2);
        must(disk->settle());
    }

    ReferenceDisk expected;
    HeldStore store;
    std::unique_ptr<Disk> disk;

private:
    std::uint64_t end_;
    // Of during(), for the store: others may write when it has ended.
    std::atomic<bool> prepares = false, may_go = false, has_flushed = false;
    inline static std::atomic<unsigned> prepared_again = 0;
    std::atomic<std::thread::id> who = {};
    std::thread flusher = {};
};

// Each waits as long as the preparation lasts, and is done then.
class Waiters {
public:
    template <class Work>
    void add(Work work)
    {
        threads_.push_back(std::make_unique<WaitingThread>([this, work = std::move(work)] {
            work();
            ++done_;
        }));
        threads_.back()->wait_until_asleep();
    }
    bool all_wait() const { return done_ == 0; }
    void join()
    {
        for (const auto &thread : threads_)
            thread->join();
    }

private:
    std::vector<std::unique_ptr<WaitingThread>> threads_;
    std::atomic<unsigned> done_ = 0;
};

}  // namespace qcow2::test
