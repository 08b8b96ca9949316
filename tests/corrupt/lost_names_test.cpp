// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Names that lead behind the end of the file, as they do where a file was cut:
// what they named is an error. It stays one when the file grows, in service and
// by a repair, and after a restart; nothing that is written later comes to lie
// under such a name.

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <functional>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/check/lost_names.h"
#include "core/check/repair.h"
#include "core/disk.h"
#include "core/format/findings.h"
#include "tests/corrupt/cut_disk.h"
#include "tests/support/fault_store.h"
#include "tests/support/must.h"
#include "tests/support/recording_store.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(lost_names)

BOOST_AUTO_TEST_CASE(W7_what_a_cut_file_has_lost_stays_an_error_when_it_grows)
{
    const StoreImage before = cut_image(true);
    BOOST_TEST(past_end(before) == clusters - lost_from);
    MemoryStore store(before, {.growth_step = 65536});
    {
        const auto disk = must(Disk::open(store, {}));
        BOOST_REQUIRE(!disk->why_read_only());
        BOOST_REQUIRE(disk->what_is_missing());
        BOOST_TEST(disk->what_is_missing()->find("the file ends at " + hex(before.size)) !=
                   std::string::npos);
        BOOST_TEST(disk->what_is_missing()->find("10 names lead") != std::string::npos);
        must(disk->begin_writing());
        grow(*disk);
        BOOST_TEST(store.size() > before.size + (clusters - lost_from) * cs);
        expect_lost(*disk);
        must(disk->close());
    }
    BOOST_TEST(past_end(store.image()) == clusters - lost_from);
    expect_lost_and_what_grew(store);
}

// What a change of the structure makes aside, at the end of the file, is under no such name.
BOOST_AUTO_TEST_CASE(W7_what_a_cut_file_has_lost_stays_an_error_when_its_structure_changes)
{
    const std::vector<std::pair<const char *, std::function<Result<void>(Disk &)>>> changes = {
        {"larger", [](Disk &disk) { return disk.resize(disk.size() + (std::uint64_t(1) << 32)); }},
        {"a snapshot", [](Disk &disk) { return disk.create_snapshot({.name = "s"}); }},
        {"a snapshot that goes",
         [](Disk &disk) -> Result<void> {
             TRY(disk.create_snapshot({.name = "s"}));
             return disk.delete_snapshot("s");
         }},
    };
    for (const auto &[name, change] : changes) {
        BOOST_TEST_CONTEXT(name)
        {
            const StoreImage before = cut_image(true);
            MemoryStore store(before);
            {
                const auto disk = must(Disk::open(store, {}));
                must(disk->begin_writing());
                must(change(*disk));
                BOOST_TEST(store.size() > before.size);
                expect_lost(*disk);
                grow(*disk);
                expect_lost(*disk);
                must(disk->close());
            }
            expect_lost_and_what_grew(store);
        }
    }
}

// Their refcounts say that they are free: who meets one must see to it.
BOOST_AUTO_TEST_CASE(W7_a_name_that_is_met_behind_the_end_is_not_given_to_another)
{
    for (const bool by_writing : {false, true}) {
        const StoreImage before = cut_image(false);
        MemoryStore store(before);
        {
            const auto disk = must(Disk::open(store, {}));
            BOOST_TEST(!disk->what_is_missing());
            must(disk->begin_writing());
            for (std::uint64_t i = lost_from; i < clusters; ++i)
                BOOST_CHECK(by_writing ? !disk->write(GuestOffset(i * cs), Buffer(cs, 9), false)
                                       : !read_cluster(*disk, i));
            grow(*disk);
            expect_lost(*disk);
            expect_what_grew(*disk);
            must(disk->close());
        }
        expect_lost_and_what_grew(store);
    }
}

// The file may grow only when the entry leads elsewhere durably.
BOOST_AUTO_TEST_CASE(W7_growth_waits_for_the_name_to_be_out_of_reach)
{
    MemoryStore below(cut_image(false));
    RecordingStore store(below);
    const auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    BOOST_CHECK(!read_cluster(*disk, lost_from));
    store.forget();
    must(disk->write(GuestOffset(700 * cs), Buffer(cs, 1), false));
    const Recording recording = store.recording();
    const auto is = [](Operation::Kind kind) {
        return [kind](const Operation &o) { return o.kind == kind; };
    };
    const std::size_t grown = recording.find(0, is(Operation::Kind::grow));
    const std::size_t mark = recording.find(0, is(Operation::Kind::write));
    BOOST_REQUIRE(grown < recording.operations.size());
    BOOST_REQUIRE(mark < grown);
    BOOST_TEST(recording.is_durable(recording.operations[mark], recording.operations[grown].begun));
}

BOOST_AUTO_TEST_CASE(W7_where_the_name_cannot_be_put_away_the_file_does_not_grow)
{
    MemoryStore below(cut_image(false));
    FaultPlan plan;
    FaultStore store(below, plan);
    const auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    const std::uint64_t size = below.size();
    BOOST_CHECK(!read_cluster(*disk, lost_from));
    for (int i = 0; i < 3; ++i) {
        plan.arm({.kinds = Fault::writes, .nth = 1});
        BOOST_CHECK(!disk->write(GuestOffset(700 * cs), Buffer(cs, 1), false));
        plan.disarm();
        BOOST_TEST(below.size() == size);
    }
    must(disk->write(GuestOffset(700 * cs), Buffer(cs, 1), false));
    BOOST_TEST(below.size() > size);
    is_lost(*disk, lost_from);
}

// Each kind of word that can lead behind the end, but those that keep a disk from
// being written.
BOOST_AUTO_TEST_CASE(W7_every_kind_of_name_stays_lost)
{
    const auto after_data = [](Patient &p) { return p.host(clusters - 1) + cs; };
    struct Kind {
        const char *name;
        Finding finding;
        std::function<void(Patient &)> aim;
        std::uint64_t more = 0;  // clusters that stay, behind those of the disk
    };
    const std::vector<Kind> kinds = {
        {"cluster of the guest, compressed", Finding::data_cluster_past_end,
         [&](Patient &p) { p.put(p.l2(3), l2_entry_compressed | (after_data(p) + 100)); }},
        {"zero cluster that was kept", Finding::data_cluster_past_end,
         [&](Patient &p) { p.put(p.l2(3), entry_copied | after_data(p) | 1); }},
        {"L1 table of a snapshot", Finding::snapshot_l1_wrong,
         [&](Patient &p) { p.put(p.snapshots(), after_data(p)); }},
        {"L2 table of a snapshot", Finding::l2_table_past_end,
         [&](Patient &p) { p.put(p.word(p.snapshots()), after_data(p)); }},
        {"cluster of a snapshot", Finding::data_cluster_past_end, [](Patient &) {},
         1},  // its table stays
        {"table of a bitmap", Finding::bitmap_table_past_end,
         [&](Patient &p) { p.put(p.directory(), after_data(p)); }},
        {"data of a bitmap", Finding::bitmap_data_past_end,
         [&](Patient &p) { p.put(p.bitmap().bitmap_table_offset.value, after_data(p)); }},
    };
    for (const Kind &kind : kinds)
        for (const bool repaired : {false, true})
            BOOST_TEST_CONTEXT(kind.name << (repaired ? ", repaired" : ""))
            {
                Patient patient(spec_of(true));
                const std::uint64_t end = after_data(patient) + kind.more * cs;
                kind.aim(patient);
                // The snapshot's cluster is gone, too: nobody looks at it here.
                MemoryStore store(cut(patient.store().image(), end));
                const std::uint64_t found = past_end(store.image(), kind.finding);
                BOOST_REQUIRE(found != 0u);
                if (repaired) {
                    const auto report = must(repair(store, RepairKind::all));
                    BOOST_TEST(report.after.corruptions <= report.before.corruptions,
                               report.after.text());
                    must(store.grow(store.size() + (1 << 20)));
                } else {
                    const auto disk = must(Disk::open(store, {}));
                    BOOST_REQUIRE(!disk->why_read_only());
                    BOOST_REQUIRE(disk->what_is_missing());
                    must(disk->begin_writing());
                    grow(*disk);
                    must(disk->close());
                }
                BOOST_TEST(past_end(store.image(), kind.finding) == found);
                BOOST_TEST(store.size() > end);
            }
}

// Also to who has looked before anybody wrote, and also where nobody has counted it.
BOOST_AUTO_TEST_CASE(W7_what_a_snapshot_has_lost_stays_an_error_to_its_readers)
{
    for (const bool counted : {true, false})
        BOOST_TEST_CONTEXT((counted ? "counted" : "not counted"))
        {
            Patient patient(spec_of(true));
            const std::uint64_t end = patient.host(clusters - 1) + 2 * cs;
            for (std::uint64_t at = end; at < patient.store().size() && !counted; at += cs)
                patient.set_refcount(at, 0);
            MemoryStore store(cut(patient.store().image(), end));
            const auto disk = must(Disk::open(store, {}));
            const auto reader = must(disk->open_snapshot("before"));
            const auto is_lost = [](SnapshotReader &snapshot) {
                Buffer bytes(cs);
                const Result<void> read = snapshot.read(GuestOffset(600 * cs), bytes);
                BOOST_REQUIRE(!read);
                BOOST_TEST(read.error().what.find("past the end of the file") != std::string::npos,
                           read.error().what);
            };
            is_lost(*reader);
            must(disk->begin_writing());
            grow(*disk);
            is_lost(*reader);
            if (counted) {
                is_lost(*must(disk->open_snapshot("1")));
                is_lost(*must(disk->open_snapshot("before")));
            }
            must(disk->close());
        }
}

// As a crash leaves them that has lost the growth: nothing is missing.
BOOST_AUTO_TEST_CASE(W7_counts_behind_the_end_alone_change_nothing)
{
    Patient patient(spec_of(false));
    const std::uint64_t end = patient.store().size();
    for (std::uint64_t i = 0; i < 5; ++i)
        patient.set_refcount(end + i * cs, 1);
    MemoryStore below(patient.store().image());
    RecordingStore store(below);
    const auto disk = must(Disk::open(store, {}));
    BOOST_TEST(!disk->what_is_missing());
    must(disk->begin_writing());
    for (const Operation &operation : store.recording().operations)
        BOOST_TEST(!operation.writes());
    grow(*disk);
    must(disk->close());
    const StoreImage after = below.image();
    ImageView view(after);
    BOOST_TEST(must(check(view)).leaks_at_worst());
}

// A server that only looks leaves the file as it is.
BOOST_AUTO_TEST_CASE(W7_nothing_is_put_away_before_the_disk_may_be_written)
{
    MemoryStore below(cut_image(true));
    RecordingStore store(below);
    for (const bool read_only : {false, true}) {
        DiskOptions options;
        options.read_only = read_only;
        const auto disk = must(Disk::open(store, options));
        BOOST_TEST(disk->what_is_missing().has_value());
        for (std::uint64_t i = lost_from; i < clusters; ++i)
            BOOST_CHECK(!read_cluster(*disk, i));
        must(disk->close());
    }
    BOOST_TEST(store.recording().operations.empty());
}

// A table of which only a part is there is lost as a whole.
BOOST_AUTO_TEST_CASE(W7_a_table_that_is_cut_short_is_a_finding)
{
    Patient patient(spec_of(false));
    const std::uint64_t table = patient.new_cluster();
    patient.set_refcount(table, 1);
    patient.put(patient.l1(1), entry_copied | table);
    const StoreImage whole = patient.store().image();
    ImageView view(whole);
    BOOST_TEST(must(check(view)).sound());
    const StoreImage part = cut(whole, table + cs / 2);
    BOOST_TEST(past_end(part, Finding::l2_table_past_end) == 1u);
    MemoryStore store(part);
    BOOST_TEST(must(Disk::open(store, {}))->why_read_only().has_value());
}

BOOST_AUTO_TEST_SUITE_END()
