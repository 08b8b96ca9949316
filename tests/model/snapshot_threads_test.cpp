// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Internal snapshots while several threads are at the disk: made, applied and deleted under
// their requests, and read beside it.

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "core/check/check.h"
#include "core/disk.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(snapshot_model)

// Requests are under way while snapshots come, go and are applied.
BOOST_AUTO_TEST_CASE(snapshots_under_requests_of_threads)
{
    for (const std::uint64_t seed : seeds(6)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec;
        spec.cluster_bits = random.pick<std::uint32_t>({9, 12, 16});
        spec.size = 1 << 20;
        spec.bitmaps = {{.name = "b0", .granularity_bits = 12, .set = {}, .extra_data = {}}};
        StoreOptions options;
        options.stirred = seed;
        MemoryStore store(build_image(spec).image, options);
        const auto disk = must(Disk::open(store, {}));
        must(disk->begin_writing());
        must(disk->write(GuestOffset(0), payload(GuestOffset(0), spec.size, 1), false));
        must(disk->create_snapshot({"kept", 0, 0}));

        // Each thread has its stripe, and finds there what it wrote last, unless
        // the disk may be switched under it.
        constexpr unsigned threads = 4;
        const std::uint64_t stripe = spec.size / threads;
        std::atomic<bool> stop{false}, switched{false};
        std::atomic<unsigned> wrong{0};
        std::vector<std::thread> workers;
        for (unsigned t = 0; t < threads; ++t)
            workers.emplace_back([&, t] {
                Random mine(seed * 100 + t);
                for (std::uint32_t generation = 2; !stop; ++generation) {
                    const Range range = mine.range(stripe, 20000, 4096);
                    const GuestOffset offset(t * stripe + range.begin);
                    const Buffer bytes = payload(offset, range.length(), generation);
                    Buffer found(bytes.size());
                    const bool before = switched;
                    bool good = disk->write(offset, bytes, mine.one_in(10)).has_value();
                    good = disk->read(offset, found).has_value() && good;
                    wrong += !good || (!before && !switched && found != bytes);
                }
            });
        for (int i = 0; i < 4; ++i) {
            must(disk->create_snapshot({"passing", 0, 0}));
            must(disk->delete_snapshot("passing"));
        }
        switched = true;
        for (int i = 0; i < 3; ++i)
            must(disk->revert("kept"));
        stop = true;
        for (std::thread &worker : workers)
            worker.join();
        BOOST_REQUIRE_EQUAL(wrong, 0u);

        must(disk->revert("kept"));
        must(disk->close());
        ReferenceDisk expected(spec.size);
        expected.preset(GuestOffset(0), payload(GuestOffset(0), spec.size, 1));
        expected.add_bitmap("b0", 12);
        expected.bitmaps()["b0"].bits.set({0, spec.size >> 12});
        BOOST_REQUIRE_EQUAL(clean_stop_verdict(store.image(), expected), "");
    }
}

// Threads write on while a snapshot is prepared, and it is the disk of one instant all the same:
// each writes a number at one place, then at another one.
BOOST_AUTO_TEST_CASE(a_snapshot_is_of_one_instant)
{
    for (const std::uint64_t seed : seeds(6)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec;
        spec.cluster_bits = random.pick<std::uint32_t>({9, 12});
        spec.size = 1 << 20;
        spec.bitmaps = {{.name = "b0", .granularity_bits = 9, .set = {}, .extra_data = {}}};
        StoreOptions options;
        options.stirred = seed;
        MemoryStore store(build_image(spec).image, options);
        const auto disk = must(Disk::open(store, {}));
        must(disk->begin_writing());
        must(disk->write(GuestOffset(0), Buffer(spec.size), false));
        must(disk->settle());

        constexpr unsigned threads = 3;
        const auto place = [&](unsigned thread, unsigned which) {
            return GuestOffset((2 * thread + which) * (spec.size / (2 * threads) / 512) * 512);
        };
        std::atomic<bool> stop{false};
        std::atomic<unsigned> wrong{0};
        std::vector<std::thread> workers;
        for (unsigned t = 0; t < threads; ++t)
            workers.emplace_back([&, t] {
                Buffer sector(512);
                for (std::uint64_t number = 1; !stop; ++number)
                    for (const unsigned which : {0, 1}) {
                        store_be64(sector.data(), number);
                        wrong += !disk->write(place(t, which), sector, number % 16 == 0);
                    }
            });
        const auto number_in = [&](SnapshotReader &reader, GuestOffset where) {
            Buffer sector(512);
            must(reader.read(where, sector));
            return load_be64(sector.data());
        };
        for (int i = 0; i < 4; ++i) {
            must(disk->create_snapshot({"s", 0, 0}));
            {
                const auto reader = must(disk->open_snapshot("s"));
                for (unsigned t = 0; t < threads; ++t) {
                    const std::uint64_t first = number_in(*reader, place(t, 0));
                    const std::uint64_t second = number_in(*reader, place(t, 1));
                    BOOST_TEST((first == second || first == second + 1), first << " " << second);
                }
            }
            must(disk->delete_snapshot("s"));
        }
        stop = true;
        for (std::thread &worker : workers)
            worker.join();
        BOOST_REQUIRE_EQUAL(wrong, 0u);
        must(disk->close());
        const StoreImage left = store.image();
        ImageView view(left);
        const CheckReport report = must(check(view));
        BOOST_REQUIRE_MESSAGE(report.sound(), report.text());
    }
}

// They are read beside the disk, by several at a time, while requests, other snapshots and
// other sizes of the disk come and go; and stay as long as somebody reads them.
BOOST_AUTO_TEST_CASE(snapshots_are_read_beside_the_disk)
{
    for (const std::uint64_t seed : seeds(12)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec = random_spec(random, random.pick<std::uint32_t>({9, 12, 16}), 1 << 20);
        spec.size = align_up(std::max<std::uint64_t>(spec.size, 4096), 512);
        spec.refcount_order = 4;
        BOOST_TEST_INFO_SCOPE(spec.text());
        StoreOptions options;
        options.stirred = seed;
        options.discarded = Discarded::garbage;
        MemoryStore store(build_image(spec).image, options);
        DiskOptions disk_options;
        disk_options.cache_bytes = 1;
        const auto disk = must(Disk::open(store, disk_options));
        must(disk->begin_writing());
        std::atomic<std::uint32_t> generation{1};
        const auto change_somewhere = [&](Random &drawn) {
            const Range range = drawn.range(spec.size, 40000, 4096);
            const GuestOffset offset(range.begin);
            switch (drawn.below(4)) {
            case 0: return disk->zero(offset, range.length(), {.may_unmap = drawn.coin()});
            case 1: return disk->trim(offset, range.length(), false);
            default:
                return disk->write(offset, payload(offset, range.length(), ++generation),
                                   drawn.one_in(9));
            }
        };
        const auto content = [&] {
            Buffer bytes(disk->size());
            must(disk->read(GuestOffset(0), bytes));
            return bytes;
        };
        std::map<std::string, Buffer> contents;
        for (const char *name : {"a", "b"}) {
            for (int i = 0; i < 6; ++i)
                must(change_somewhere(random));
            must(disk->create_snapshot({name, 1700000000, 0}));
            contents[name] = content();
        }

        std::atomic<bool> stop{false};
        std::atomic<unsigned> reads{0}, wrong{0};
        std::vector<std::thread> workers;
        std::vector<std::shared_ptr<SnapshotReader>> readers;
        for (const char *name : {"a", "a", "b"}) {
            readers.push_back(must(disk->open_snapshot(name)));
            workers.emplace_back([&, reader = readers.back().get(), name = std::string(name)] {
                Random mine(seed * 100 + name[0] + reads);
                const Buffer &expected = contents.at(name);
                bool good = reader->size() == expected.size();
                while (!stop || reads < 300) {
                    const Range range = mine.range(expected.size(), 70000, 4096);
                    Buffer found(range.length(), 0x77);
                    good = reader->read(GuestOffset(range.begin), found).has_value() && good;
                    good = std::equal(found.begin(), found.end(), expected.begin() + range.begin) &&
                           good;
                    std::uint64_t at = range.begin;
                    const auto extents = reader->block_status(GuestOffset(at), range.length());
                    good = extents.has_value() && good;
                    for (const Extent &extent : extents ? *extents : std::vector<Extent>()) {
                        good =
                            (!extent.zero || all_zero(sub(Bytes(expected), at, extent.length))) &&
                            good;
                        at += extent.length;
                    }
                    wrong += !good || at != range.end;
                    ++reads;
                }
            });
        }
        for (unsigned t = 0; t < 2; ++t)
            workers.emplace_back([&, t] {
                Random mine(seed * 200 + t);
                while (!stop) {
                    const Result<void> changed = change_somewhere(mine);
                    wrong += !changed && changed.error().code != Errc::invalid;  // behind the end
                }
            });
        const auto is_kept = [&](const Result<void> &done, const char *by) {
            BOOST_TEST(!done);
            BOOST_TEST(words(done).find(by) != std::string::npos, words(done));
        };
        for (int i = 0; i < 4; ++i) {
            must(disk->create_snapshot({"passing", 0, 0}));
            is_kept(disk->delete_snapshot("a"), "snapshot 'a' (ID ");
            is_kept(disk->delete_snapshot("a"),
                    "is being served to 2 clients; let them disconnect first");
            is_kept(disk->revert("b"), "is being served to 1 client;");
            if (spec.version >= 3)
                must(disk->resize(i % 2 == 1      ? spec.size
                                  : random.coin() ? spec.size / 2
                                                  : 2 * spec.size));
            must(disk->revert("passing"));
            must(disk->delete_snapshot("passing"));
        }
        stop = true;
        for (std::thread &worker : workers)
            worker.join();
        BOOST_REQUIRE_EQUAL(wrong, 0u);

        readers.pop_back();
        must(disk->revert("b"));
        BOOST_REQUIRE(content() == contents["b"]);
        readers.pop_back();
        is_kept(disk->delete_snapshot("a"), "is being served to 1 client;");
        readers.clear();
        must(disk->delete_snapshot("a"));
        BOOST_TEST(!disk->open_snapshot("a"));
        must(disk->close());
        const StoreImage left = store.image();
        ImageView view(left);
        const CheckReport report = must(check(view));
        BOOST_REQUIRE_MESSAGE(report.sound(), report.text());
    }
}

BOOST_AUTO_TEST_SUITE_END()
