// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// An L1 entry that leads to something else: to the guest's data, to a bitmap. What
// stands there looks like an L2 table with wrong bits 63 and lost names. Neither a repair
// nor who begins to write the disk takes it for one and puts that right: it would be
// the end of the bitmap.

#include <boost/test/unit_test.hpp>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/check/lost_names.h"
#include "core/check/repair.h"
#include "core/disk.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(tables_in_other_things)

namespace {

constexpr std::uint64_t cs = 4096;

ImageSpec image_spec()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 4 << 20;  // two L2 tables of 512 entries; the second is not there
    spec.clusters = {{0, Preset::data}, {1, Preset::data}, {2, Preset::shared_data}};
    spec.shared_l2_tables = false;
    BitmapSpec bitmap;
    bitmap.granularity_bits = 12;
    bitmap.enabled = false;
    bitmap.set = {{0, 3}};
    spec.bitmaps = {bitmap};
    return spec;
}

struct Place {
    const char *name;
    std::uint64_t (*cluster)(Patient &);  // offset
};

constexpr Place places[] = {
    {"the guest's data", [](Patient &p) { return p.host(0); }},
    {"the bitmap directory", [](Patient &p) { return p.directory(); }},
    {"a bitmap's table", [](Patient &p) { return p.bitmap().bitmap_table_offset.value; }},
    {"a bitmap's data",
     [](Patient &p) { return p.word(p.bitmap().bitmap_table_offset.value) & entry_offset_mask; }},
    {"the snapshot table", [](Patient &p) { return p.snapshots(); }},
    {"a snapshot's L1 table", [](Patient &p) { return p.word(p.snapshots()); }},
    {"the L1 table", [](Patient &p) { return p.l1(0); }},
    {"the refcount table", [](Patient &p) { return p.header().refcount_table_offset.value; }},
    {"the refcount block", [](Patient &p) { return p.refcount_block(); }},
};

// The second L1 entry leads there, and the last words, which mean nothing to what
// is there, are the entry `last` and one with a wrong bit 63.
std::uint64_t lead_there(Patient &patient, const Place &place, std::uint64_t last)
{
    const std::uint64_t cluster = place.cluster(patient);
    patient.put(patient.l1(1), entry_copied | cluster);
    patient.put(cluster + cs - 16, patient.host(1));
    patient.put(cluster + cs - 8, last);
    return cluster;
}

Buffer cluster_at(ByteStore &store, std::uint64_t offset)
{
    Buffer bytes(cs);
    must(store.read(offset, bytes));
    return bytes;
}

void expect_no_worse(const CheckReport &before, ByteStore &store)
{
    const CheckReport after = must(check(store));
    for (std::size_t f = 0; f < finding_kinds; ++f)
        BOOST_TEST(after.counts[f] <= before.counts[f], name_of(Finding(f))
                                                            << " is new or more:\n"
                                                            << before.text() << "after:\n"
                                                            << after.text());
}

}  // namespace

BOOST_AUTO_TEST_CASE(W7_what_looks_like_a_lost_name_there_is_not_written)
{
    for (const Place &place : places)
        BOOST_TEST_CONTEXT(place.name)
        {
            Patient patient(image_spec());
            const std::uint64_t size = patient.store().size();
            const std::uint64_t cluster = lead_there(patient, place, size + (1 << 20));
            const Buffer there = cluster_at(patient.store(), cluster);
            const auto put = put_lost_names_out_of_reach(patient.store());
            BOOST_REQUIRE(!put);
            BOOST_CHECK(put.error().code == Errc::corrupt);
            BOOST_TEST(put.error().what ==
                       "the L2 table at " + hex(cluster) +
                           ", in a cluster that is something else, too, names what lies "
                           "behind the end of the file");
            BOOST_TEST((cluster_at(patient.store(), cluster) == there));
            BOOST_TEST(patient.store().size() == size);
        }
}

BOOST_AUTO_TEST_CASE(W6_W7_no_repair_writes_there)
{
    for (const Place &place : places)
        for (const RepairKind kind : {RepairKind::leaks, RepairKind::all})
            for (const bool lost : {false, true})
                BOOST_TEST_CONTEXT(place.name << (lost ? ", lost" : "")
                                              << (kind == RepairKind::all ? ", all" : ", leaks"))
                {
                    Patient patient(image_spec());
                    const std::uint64_t size = patient.store().size();
                    const std::uint64_t cluster = lead_there(
                        patient, place, lost ? size + (1 << 20) : entry_copied | patient.host(2));
                    const Buffer there = cluster_at(patient.store(), cluster);
                    const CheckReport before = must(check(patient.store()));
                    BOOST_REQUIRE(before.corruptions != 0u);
                    // It may find that there is no room, where the file must not grow.
                    const auto repaired = repair(patient.store(), kind);
                    BOOST_TEST((repaired || repaired.error().code == Errc::no_space),
                               words(repaired));
                    BOOST_TEST((cluster_at(patient.store(), cluster) == there));
                    expect_no_worse(before, patient.store());
                    if (lost)
                        BOOST_TEST(patient.store().size() == size);
                    const auto again = repair(patient.store(), kind);
                    if (repaired)
                        BOOST_TEST(!must(again).changed);
                }
}

// Served, the disk may be read, and written if it is not seen what is wrong with it;
// what is there stays.
BOOST_AUTO_TEST_CASE(W7_no_disk_that_begins_to_be_written_writes_there)
{
    for (const Place &place : places)
        BOOST_TEST_CONTEXT(place.name)
        {
            Patient patient(image_spec());
            const std::uint64_t size = patient.store().size();
            const std::uint64_t cluster = lead_there(patient, place, size + (1 << 20));
            patient.set_refcount(size + (1 << 20), 1);  // something is missing
            const Buffer there = cluster_at(patient.store(), cluster);
            if (const auto disk = Disk::open(patient.store(), {})) {
                BOOST_TEST(((*disk)->what_is_missing() || (*disk)->why_read_only()));
                const auto begun = (*disk)->begin_writing();
                BOOST_TEST(((*disk)->why_read_only() || !begun));
                (void)(*disk)->close();
            }
            BOOST_TEST((cluster_at(patient.store(), cluster) == there));
            BOOST_TEST(patient.store().size() == size);
        }
}

BOOST_AUTO_TEST_SUITE_END()
