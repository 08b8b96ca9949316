// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include <boost/test/unit_test.hpp>

#include "core/disk.h"
#include "core/format/findings.h"
#include "core/image/snapshots.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(snapshots)

namespace {

SnapshotTable table_of(const std::vector<std::pair<std::string, std::string>> &snapshots)
{
    SnapshotTable table;
    for (const auto &[id, name] : snapshots) {
        Snapshot snapshot;
        snapshot.id = id;
        snapshot.name = name;
        table.snapshots.push_back(snapshot);
    }
    return table;
}

// Which one is found, by number; -1 if none.
int found(const SnapshotTable &table, std::string_view word)
{
    const auto snapshot = find_snapshot(table, word);
    return snapshot ? static_cast<int>(*snapshot - table.snapshots.data()) : -1;
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_id_wins_over_a_name)
{
    const SnapshotTable table = table_of({{"1", "3"}, {"2", "twice"}, {"3", "twice"}, {"4", ""}});
    BOOST_TEST(found(table, "1") == 0);
    BOOST_TEST(found(table, "3") == 2);
    BOOST_TEST(found(table, "twice") == 1);
    BOOST_TEST(found(table, "") == 3);
    BOOST_TEST(found(table, "5") == -1);
    BOOST_TEST(found(table, "twic") == -1);
}

BOOST_AUTO_TEST_CASE(what_is_there_is_said)
{
    const auto none = find_snapshot(table_of({}), "x");
    BOOST_TEST((none.error().code == Errc::not_found));
    BOOST_TEST(none.error().what ==
               "there is no snapshot with the ID or name 'x'; the image has none");
    BOOST_TEST(find_snapshot(table_of({{"1\x1b[2J", "a\n"}, {"2", "b"}}), "x\x1b").error().what ==
               "there is no snapshot with the ID or name $'x\\x1b'; "
               "the image has snapshot $'a\\x0a' (ID $'1\\x1b[2J'), "
               "snapshot 'b' (ID 2)");
    const std::vector<std::pair<std::string, std::string>> many(1000, {"7", "many"});
    BOOST_TEST(find_snapshot(table_of(many), "x").error().what.size() < 1000u);
}

BOOST_AUTO_TEST_CASE(a_new_id_is_one_more_than_the_largest)
{
    BOOST_TEST(next_snapshot_id(table_of({})) == "1");
    BOOST_TEST(next_snapshot_id(table_of({{"9", ""}, {"10", ""}, {"2", ""}})) == "11");
    // What is no number does not count.
    BOOST_TEST(next_snapshot_id(table_of({{"x7", ""}, {"7x", ""}, {"", ""}, {"-5", ""}})) == "1");
    BOOST_TEST(next_snapshot_id(table_of(
                   {{"18446744073709551615", ""}, {"99999999999999999999", ""}, {"4", ""}})) ==
               "5");
}

BOOST_AUTO_TEST_CASE(a_disk_that_no_table_reaches_cannot_be_followed)
{
    Snapshot snapshot;
    snapshot.extra_data.resize(16);
    const Geometry geometry;
    snapshot.disk_size = geometry.l2_reach() * (4 << 20);
    BOOST_TEST(check_snapshot(snapshot, geometry).has_value());
    for (const std::uint64_t size :
         {snapshot.disk_size + 1, ~std::uint64_t(0), std::uint64_t(1) << 63}) {
        snapshot.disk_size = size;
        BOOST_TEST((check_snapshot(snapshot, geometry).error().code == Errc::unsupported));
    }
    snapshot.finding = Finding::snapshot_l1_wrong;
    BOOST_TEST((check_snapshot(snapshot, geometry).error().code == Errc::corrupt));
}

BOOST_AUTO_TEST_CASE(a_table_longer_than_the_first_look)
{
    ImageSpec spec;
    spec.snapshot = true;
    MemoryStore store(build_image(spec).image);
    Buffer cluster(65536);
    BOOST_REQUIRE(store.read(0, cluster));
    Header header = decode_header(cluster).value();
    SnapshotTable table = load_snapshots(store, header).value();
    BOOST_REQUIRE_EQUAL(table.snapshots.size(), 1u);
    table.snapshots.resize(5000, table.snapshots[0]);
    const Buffer bytes = encode_snapshot_table(table.snapshots);
    BOOST_REQUIRE(bytes.size() > 300000);
    header.snapshots_offset = HostOffset(store.size());
    BOOST_REQUIRE(store.grow(store.size() + bytes.size()));
    BOOST_REQUIRE(store.write(header.snapshots_offset.value, bytes));
    header.nb_snapshots = 5000;
    BOOST_TEST((load_snapshots(store, header).value().snapshots == table.snapshots));
    header.nb_snapshots = 5001;
    BOOST_TEST((load_snapshots(store, header).error().code == Errc::corrupt));
    header.snapshots_offset = HostOffset(1 << 30);
    BOOST_TEST((load_snapshots(store, header).error().code == Errc::corrupt));
}

// A count of two does not fit into one bit.
BOOST_AUTO_TEST_CASE(none_is_made_where_refcounts_have_one_bit)
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.refcount_order = 0;
    spec.size = 4 << 20;
    spec.clusters = {{0, Preset::data}, {600, Preset::data}};
    MemoryStore store(build_image(spec).image);
    const StoreImage before = store.image();
    const auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    const Result<void> made = disk->create_snapshot({.name = "first"});
    BOOST_REQUIRE(!made);
    BOOST_TEST((made.error().code == Errc::unsupported), made.error().what);
    // It goes on as before.
    Buffer bytes(512);
    must(disk->read(GuestOffset(0), bytes));
    must(disk->settle());
    must(disk->close());
    BOOST_TEST(store.image().size == before.size);
    BOOST_TEST((store.image().bytes == before.bytes));
}

BOOST_AUTO_TEST_SUITE_END()
