// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Tables with two names, and L1 entries that name none. Where two tables share
// a cluster nothing is written: who changes one changes the other. Snapshots may
// share their L2 tables, with each other and with the disk; then what the disk
// lets go of is metadata still.

#include <boost/test/unit_test.hpp>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/check/repair.h"
#include "core/disk.h"
#include "core/format/findings.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(tables_named_twice)

namespace {

constexpr std::uint64_t copied = std::uint64_t(1) << 63;
constexpr std::uint64_t cluster_size = 4096;

ImageSpec two_tables()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 4 << 20;  // two L2 tables of 512 entries
    spec.clusters = {{0, Preset::data}, {1, Preset::data}};
    return spec;
}

ImageSpec with_snapshot()
{
    ImageSpec spec = two_tables();
    spec.snapshot = true;
    spec.clusters = {{0, Preset::shared_data}, {1, Preset::shared_data}, {600, Preset::data}};
    return spec;
}

std::uint64_t table_of(Patient &patient, std::uint64_t l1_place)
{
    return patient.word(l1_place) & entry_offset_mask;
}

void is_read_only(Patient &patient, std::string_view place, bool check_sees = true)
{
    const StoreImage before = patient.store().image();
    const auto disk = must(Disk::open(patient.store(), {}));
    BOOST_REQUIRE(disk->why_read_only());
    const std::string what = disk->why_read_only()->what;
    BOOST_TEST(what.find(sentence_of(Finding::tables_overlap)) != std::string::npos, what);
    BOOST_TEST(what.find(place) != std::string::npos, what << "\n  lacks the place: " << place);
    must(disk->begin_writing());
    BOOST_CHECK(!disk->write(GuestOffset(0), Buffer(512, 1), true));
    BOOST_CHECK(!disk->trim(GuestOffset(0), 1 << 20, true));
    Buffer bytes(cluster_size);
    must(disk->read(GuestOffset(cluster_size), bytes));
    BOOST_TEST((bytes == patient.reference().read(GuestOffset(cluster_size), cluster_size)));
    must(disk->close());
    BOOST_TEST((patient.store().image().bytes == before.bytes));
    BOOST_TEST(must(check(patient.store())).sound() == !check_sees);
}

}  // namespace

BOOST_AUTO_TEST_CASE(two_L1_entries_name_one_L2_table)
{
    for (const std::uint64_t flag : {copied, std::uint64_t(0)}) {
        Patient patient(two_tables());
        const std::uint64_t table = table_of(patient, patient.l1(0));
        patient.put(patient.l1(0), flag | table);
        patient.put(patient.l1(1), flag | table);
        is_read_only(patient, "entry 1");
        // Counted as they are named it is still no image to be written to.
        if (flag == 0) {
            patient.set_refcount(table, 2);
            for (std::uint64_t i = 0; i < 2; ++i) {
                const std::uint64_t host = patient.host(i);
                patient.set_refcount(host, 2);
                patient.put(patient.l2(i), host);
            }
            is_read_only(patient, "entry 1");
            const std::string text = must(check(patient.store())).text();
            BOOST_TEST(text.find(sentence_of(Finding::tables_overlap)) != std::string::npos, text);
        }
    }
}

BOOST_AUTO_TEST_CASE(an_L2_table_lies_over_another_table)
{
    for (int which = 0; which < 4; ++which) {
        Patient patient(with_snapshot());
        const std::uint64_t over[] = {patient.header().refcount_table_offset.value,
                                      patient.header().l1_table_offset.value, patient.snapshots(),
                                      patient.word(patient.snapshots())};
        patient.put(patient.l1(1), copied | over[which]);
        is_read_only(patient,
                     "L1 table at " + hex(patient.header().l1_table_offset.value) + ", entry 1");
    }
}

BOOST_AUTO_TEST_CASE(tables_of_a_snapshot_lie_over_others)
{
    Patient patient(with_snapshot());
    const std::uint64_t l1 = patient.word(patient.snapshots());
    patient.put(l1 + 8, patient.header().l1_table_offset.value);
    is_read_only(patient, "L1 table at " + hex(l1));

    Patient other(with_snapshot());
    other.put(other.snapshots(), other.header().l1_table_offset.value);
    is_read_only(other, "L1 table at " + hex(other.header().l1_table_offset.value));
}

// Nobody writes to what bit 63 alone names: the header.
BOOST_AUTO_TEST_CASE(an_L1_entry_of_bit_63_alone_names_no_table)
{
    Patient patient(two_tables());
    patient.put(patient.l1(1), copied);
    BOOST_TEST(!must(check(patient.store())).sound());
    const auto disk = must(Disk::open(patient.store(), {}));
    BOOST_TEST(!disk->why_read_only());
    must(disk->begin_writing());
    const GuestOffset place(600 * cluster_size);
    Buffer bytes(cluster_size, 1);
    must(disk->read(place, bytes));
    BOOST_TEST((bytes == Buffer(cluster_size)));
    must(disk->trim(place, cluster_size, false));
    must(disk->zero(place, 4 * cluster_size, {}));
    must(disk->write(place, Buffer(cluster_size, 7), true));
    must(disk->read(place, bytes));
    BOOST_TEST((bytes == Buffer(cluster_size, 7)));
    must(disk->settle());
    must(disk->close());
    const CheckReport report = must(check(patient.store()));
    BOOST_TEST(report.sound(), report.text());
}

// The active table is copied, and the snapshot's stays what it is.
BOOST_AUTO_TEST_CASE(an_L2_table_that_the_disk_let_go_of_is_the_snapshots)
{
    Patient patient(with_snapshot());
    const std::uint64_t table = table_of(patient, patient.l1(0));
    BOOST_REQUIRE(table == table_of(patient, patient.word(patient.snapshots())));
    patient.put(patient.l2(9), table);
    const auto disk = must(Disk::open(patient.store(), {}));
    BOOST_TEST(!disk->why_read_only());
    must(disk->begin_writing());
    const Buffer before = patient.store().image().bytes.copy(table, cluster_size);
    must(disk->write(GuestOffset(0), Buffer(cluster_size, 7), true));
    BOOST_REQUIRE(table_of(patient, patient.l1(0)) != table);
    const Result<void> result = disk->write(GuestOffset(9 * cluster_size), Buffer(512, 7), true);
    BOOST_REQUIRE(!result);
    BOOST_TEST(result.error().what.find(sentence_of(Finding::data_cluster_is_metadata)) !=
                   std::string::npos,
               result.error().what);
    must(disk->settle());
    must(disk->close());
    BOOST_TEST((patient.store().image().bytes.copy(table, cluster_size) == before));
}

// As with QEMU (compared byte for byte with 7.2): who overwrites one of the two names leaves a
// cluster with one owner and without bit 63. Nothing is lost by that: the next write goes to
// another cluster, and all is sound again; a repair sets the bit.
BOOST_AUTO_TEST_CASE(a_cluster_that_the_tree_names_twice_is_written_apart)
{
    for (const bool repaired : {false, true}) {
        Patient patient(two_tables());
        const std::uint64_t host = patient.host(0);
        patient.put(patient.l2(0), host);
        patient.put(patient.l2(1), host);
        patient.set_refcount(host, 2);
        patient.set_refcount(host + cluster_size, 0);  // where the second one was
        BOOST_REQUIRE(must(check(patient.store())).sound());
        const Buffer both = patient.reference().read(GuestOffset(0), cluster_size);
        const auto write = [&](std::uint64_t cluster) {
            const auto disk = must(Disk::open(patient.store(), {}));
            must(disk->begin_writing());
            must(disk->write(GuestOffset(cluster * cluster_size), Buffer(cluster_size, 7), false));
            must(disk->close());
        };
        write(0);
        const CheckReport one = must(check(patient.store()));
        BOOST_TEST(one.corruptions == 1u, one.text());
        BOOST_TEST(one.count_of(Finding::copied_flag_wrong) == 1u, one.text());
        const auto disk = must(Disk::open(patient.store(), {}));
        Buffer bytes(cluster_size);
        must(disk->read(GuestOffset(cluster_size), bytes));
        BOOST_TEST((bytes == both));
        if (repaired)
            must(repair(patient.store(), RepairKind::all));
        else
            write(1);
        BOOST_TEST(must(check(patient.store())).sound());
    }
}

BOOST_AUTO_TEST_SUITE_END()
