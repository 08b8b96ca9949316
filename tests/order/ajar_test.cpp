// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Who passes, and who waits, while a snapshot is prepared (core/disk_ajar.cpp). One thread makes
// it, and is held where it first writes aside; what others do then they do during the
// preparation.

#include "tests/order/prepared.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_ajar)

// Reads, block status, flushes, and writes to clusters that are the disk's alone.
BOOST_AUTO_TEST_CASE(H1_what_leaves_the_mapping_as_it_is_passes_while_a_snapshot_is_made)
{
    Prepared prepared;
    must(prepared.during(
        [&] { return prepared.make("s"); },
        [&] {
            BOOST_TEST(prepared.differs(3) == "");
            prepared.write(5, 2);
            BOOST_TEST(prepared.differs(5) == "");
            must(prepared.disk->flush());
            BOOST_TEST(
                must(prepared.disk->block_status(GuestOffset(0), mapped * cluster_bytes)).size() ==
                1u);
            must(prepared.disk->write(GuestOffset(6 * cluster_bytes),
                                      payload(GuestOffset(6 * cluster_bytes), cluster_bytes, 2),
                                      true));
            prepared.expected.write(GuestOffset(6 * cluster_bytes),
                                    payload(GuestOffset(6 * cluster_bytes), cluster_bytes, 2));
        }));
    // It is what the disk was when it came to be.
    BOOST_TEST(prepared.in_snapshot("s", 5) ==
               payload(GuestOffset(5 * cluster_bytes), cluster_bytes, 2));
    BOOST_TEST(prepared.in_snapshot("s", 7) ==
               payload(GuestOffset(7 * cluster_bytes), cluster_bytes, 0));
    prepared.write(5, 3);
    BOOST_TEST(prepared.in_snapshot("s", 5) ==
               payload(GuestOffset(5 * cluster_bytes), cluster_bytes, 2));
    BOOST_TEST(prepared.differs(5) == "");
    prepared.judge();
}

// The same as the command does it: no bit is stored for it, neither before nor after.
BOOST_AUTO_TEST_CASE(B8_bits_in_memory_are_kept_when_a_snapshot_is_made)
{
    Prepared prepared;
    prepared.write(10000, 2);  // another region
    const auto make = [&]() -> Result<void> {
        TRY(prepared.disk->change_together({MakeSnapshot{{"s", 0, 0}}}));
        return {};
    };
    must(prepared.during(make, [&] { prepared.write(7, 2); }));
    const auto states = must(prepared.disk->bitmap_states());
    BOOST_TEST(states.at(0).extra_bytes > ArmingLimits().region_bytes);
    BOOST_TEST(states.at(0).dirty_bytes == 3 * cluster_bytes);
    BOOST_TEST(!prepared.disk->settled());
    prepared.judge();
}

// What needs a cluster, or changes a name, waits until it is there.
BOOST_AUTO_TEST_CASE(H1_what_changes_the_mapping_waits_until_a_snapshot_is_made)
{
    Prepared prepared;
    Waiters waiters;
    must(prepared.during(
        [&] { return prepared.make("s"); },
        [&] {
            waiters.add([&] { prepared.write(mapped - 1 + 5, 2); });
            waiters.add(
                [&] { must(prepared.disk->zero(GuestOffset(cluster_bytes), cluster_bytes, {})); });
            waiters.add([&] {
                must(prepared.disk->trim(GuestOffset(2 * cluster_bytes), cluster_bytes, false));
            });
            // A part of it is mapped.
            waiters.add([&] {
                const GuestOffset offset((mapped - 1) * cluster_bytes);
                must(prepared.disk->write(offset, payload(offset, 2 * cluster_bytes, 4), false));
            });
            BOOST_TEST(waiters.all_wait());
        }));
    waiters.join();
    prepared.expected.zero(GuestOffset(cluster_bytes), cluster_bytes);
    prepared.expected.zero(GuestOffset(2 * cluster_bytes), cluster_bytes);
    const GuestOffset offset((mapped - 1) * cluster_bytes);
    prepared.expected.write(offset, payload(offset, 2 * cluster_bytes, 4));
    for (const std::uint64_t cluster : {1, 2})
        BOOST_TEST(prepared.in_snapshot("s", cluster) ==
                   payload(GuestOffset(cluster * cluster_bytes), cluster_bytes, 0));
    BOOST_TEST(all_zero(prepared.in_snapshot("s", mapped)));
    prepared.judge();
}

// B2: a bit whose cluster is not there needs one. B8: what it was set for comes later.
BOOST_AUTO_TEST_CASE(B2_a_change_whose_bitmap_needs_a_cluster_waits)
{
    BuiltImage built = build_image([] {
        ImageSpec spec = mostly_empty();
        spec.clusters[DirtyBits::page_bits + 7] = Preset::data;
        return spec;
    }());
    Prepared prepared(built, {});
    Waiters waiters;
    must(prepared.during([&] { return prepared.make("s"); },
                         [&] {
                             waiters.add([&] { prepared.write(DirtyBits::page_bits + 7, 2); });
                             BOOST_TEST(waiters.all_wait());
                             prepared.write(9, 2);  // and others go on
                         }));
    waiters.join();
    prepared.judge();
}

// B1: with on-close, bits that the file has not need in_use.
BOOST_AUTO_TEST_CASE(B1_a_change_that_would_mark_bitmaps_waits)
{
    DiskOptions options;
    options.bitmap_sync = BitmapSync::on_close;
    BuiltImage built = build_image([] {
        ImageSpec spec = mostly_empty();
        spec.bitmaps[0].set = {{0, 8}};
        return spec;
    }());
    Prepared prepared(built, options);
    Waiters waiters;
    must(prepared.during([&] { return prepared.make("s"); },
                         [&] {
                             prepared.write(5, 2);  // is dirty already
                             waiters.add([&] { prepared.write(20, 2); });
                             BOOST_TEST(waiters.all_wait());
                         }));
    waiters.join();
    BOOST_TEST(prepared.in_snapshot("s", 5) ==
               payload(GuestOffset(5 * cluster_bytes), cluster_bytes, 2));
    prepared.judge();
}

BOOST_AUTO_TEST_CASE(H1_writes_pass_while_a_snapshot_is_deleted)
{
    Prepared prepared;
    prepared.make_and_write("s", 5);
    Waiters waiters;
    must(prepared.during([&] { return prepared.disk->delete_snapshot("s"); },
                         [&] {
                             prepared.write(5, 3);
                             waiters.add([&] { prepared.write(6, 3); });  // is shared
                             BOOST_TEST(waiters.all_wait());
                             BOOST_TEST(prepared.differs(5) == "");
                         }));
    waiters.join();
    prepared.judge();
}

// Its clusters may be overwritten when it is gone.
BOOST_AUTO_TEST_CASE(W3_a_snapshot_that_is_opened_while_it_is_deleted_stays)
{
    Prepared prepared;
    prepared.make_and_write("s", 5);
    for (const bool reverts : {false, true}) {
        std::shared_ptr<SnapshotReader> reader;
        const Result<void> done = prepared.during(
            [&] {
                return reverts ? prepared.disk->revert("s") : prepared.disk->delete_snapshot("s");
            },
            [&] { reader = must(prepared.disk->open_snapshot("s")); });
        BOOST_TEST(words(done).find("is being served to 1 client") != std::string::npos,
                   words(done));
        Buffer found(cluster_bytes);
        must(reader->read(GuestOffset(5 * cluster_bytes), found));
        BOOST_TEST(found == payload(GuestOffset(5 * cluster_bytes), cluster_bytes, 0));
    }
    must(prepared.disk->delete_snapshot("s"));
    prepared.judge();
}

// What is written would be gone.
BOOST_AUTO_TEST_CASE(H1_only_reads_pass_while_a_snapshot_is_applied)
{
    Prepared prepared;
    must(prepared.make("s"));
    must(prepared.disk->write(GuestOffset(5 * cluster_bytes), Buffer(cluster_bytes, 7), false));
    must(prepared.disk->settle());
    Waiters waiters;
    must(prepared.during([&] { return prepared.disk->revert("s"); },
                         [&] {
                             BOOST_TEST(prepared.differs(6) == "");
                             waiters.add([&] { prepared.write(5, 3); });
                             BOOST_TEST(waiters.all_wait());
                         }));
    waiters.join();
    prepared.expected.mark(GuestOffset(0), prepared.expected.size());
    prepared.judge();
}

// Who merges bitmaps has read them.
BOOST_AUTO_TEST_CASE(H1_only_reads_pass_while_a_snapshot_is_made_with_a_change_of_bitmaps)
{
    Prepared prepared;
    Waiters waiters;
    const auto change = [&]() -> Result<void> {
        TRY(prepared.disk->change_together({MakeSnapshot{{"s", 0, 0}}, ClearBitmap{"b0"}}));
        return {};
    };
    must(prepared.during(change, [&] {
        BOOST_TEST(prepared.differs(5) == "");
        waiters.add([&] {
            must(prepared.disk->write(GuestOffset(5 * cluster_bytes), Buffer(cluster_bytes, 7),
                                      false));
        });
        BOOST_TEST(waiters.all_wait());
    }));
    waiters.join();
    prepared.expected.bitmaps().at("b0").bits.clear({0, 3 * DirtyBits::page_bits});
    prepared.expected.write(GuestOffset(5 * cluster_bytes), Buffer(cluster_bytes, 7));
    BOOST_TEST(prepared.in_snapshot("s", 5) ==
               payload(GuestOffset(5 * cluster_bytes), cluster_bytes, 0));
    prepared.judge();
}

// Who reads it puts it out of reach: a table changes under the preparation, which is of no
// use then.
BOOST_AUTO_TEST_CASE(W7_a_lost_name_that_is_met_while_a_snapshot_is_deleted_stays_an_error)
{
    HeldStore store(build_image(mostly_empty()).image);
    {
        const auto disk = must(Disk::open(store, {}));
        must(disk->begin_writing());
        must(disk->create_snapshot({"s", 0, 0}));
        must(disk->write(GuestOffset(5 * cluster_bytes), Buffer(cluster_bytes, 7), false));
        must(disk->close());
    }
    Patient damaged(store.image());
    const std::uint64_t far = align_up(store.size(), cluster_bytes) + 40 * cluster_bytes;
    damaged.put(damaged.l2(5), far | entry_copied);
    Prepared prepared({damaged.store().image(), ReferenceDisk(0), {}, {}}, {});
    const auto is_lost = [&] {
        Buffer found(cluster_bytes);
        return !prepared.disk->read(GuestOffset(5 * cluster_bytes), found);
    };
    must(prepared.during([&] { return prepared.disk->delete_snapshot("s"); },
                         [&] { BOOST_TEST(is_lost()); }, 1));
    BOOST_TEST(prepared.store.size() < far);
    for (std::uint64_t cluster = mapped; cluster < 2 * mapped; ++cluster)
        must(prepared.disk->write(GuestOffset(cluster * cluster_bytes), Buffer(cluster_bytes, 8),
                                  false));
    BOOST_TEST(prepared.store.size() > far);
    BOOST_TEST(is_lost());
}

BOOST_AUTO_TEST_SUITE_END()
