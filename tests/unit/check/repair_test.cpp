// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Sound images, their refcounts made wrong, and what a repair makes of them.

#include "core/check/repair.h"

#include <boost/test/unit_test.hpp>

#include "core/format/extensions.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/recording_store.h"
#include "tests/support/verdict.h"
#include "tests/unit/check/repaired.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(repair_test)

namespace {

// Nothing is wrong any more, the guest and the bitmaps see what they saw, and
// neither bit is set.
void expect_sound(Patient &patient)
{
    BOOST_TEST(clean_stop_verdict(patient.store().image(), patient.reference()) == "");
    BOOST_TEST(qemu_verdict(patient.store().image(), false) == "");
    BOOST_TEST(header_of(patient.store()).incompatible_features == 0);
}

bool is_at_end(Patient &patient, HostOffset offset, std::uint64_t end_before)
{
    return offset.value >= end_before && offset.value < patient.store().size();
}

}  // namespace

BOOST_AUTO_TEST_CASE(nothing_is_written_where_nothing_is_wrong)
{
    for (const RepairKind kind : {RepairKind::leaks, RepairKind::all}) {
        Patient patient(snapshot_spec());
        RecordingStore store(patient.store());
        const RepairReport report = must(repair(store, kind));
        BOOST_TEST(report.before.sound());
        BOOST_TEST(!report.changed);
        BOOST_TEST(store.recording().operations.empty());
    }
}

BOOST_AUTO_TEST_CASE(leaks_are_lowered_in_place_and_given_back)
{
    Patient patient(snapshot_spec());
    const std::uint64_t leaked = patient.new_cluster();
    patient.set_refcount(leaked, 1);
    RecordingStore store(patient.store());
    const RepairReport report = must(repair(store, RepairKind::leaks));
    BOOST_TEST(report.before.leaks == 1);
    BOOST_TEST(report.after.sound());
    BOOST_TEST(report.changed);
    expect_sound(patient);
    // O1, the count, durable, and only then the hole (W3).
    std::vector<Operation::Kind> kinds;
    for (const Operation &operation : store.recording().operations)
        kinds.push_back(operation.kind);
    BOOST_CHECK((kinds == std::vector{Operation::Kind::flush, Operation::Kind::write,
                                      Operation::Kind::flush, Operation::Kind::discard}));
    BOOST_TEST(store.recording().operations.back().offset == leaked);
}

BOOST_AUTO_TEST_CASE(leaks_sets_bit_63_where_one_owner_is_left)
{
    Patient patient(plain_spec());
    patient.set_refcount(patient.host(1), 2);
    patient.put(patient.l2(1), patient.word(patient.l2(1)) & ~entry_copied);
    BOOST_TEST(must(check(patient.store())).leaks_at_worst());
    BOOST_TEST(must(repair(patient.store(), RepairKind::leaks)).after.sound());
    expect_sound(patient);
}

BOOST_AUTO_TEST_CASE(leaks_never_raises)
{
    Patient patient(plain_spec());
    const std::uint64_t leaked = patient.new_cluster();
    patient.set_refcount(leaked, 1);
    patient.set_refcount(patient.host(0), 0);
    patient.put_byte(79, 3);
    const RepairReport report = must(repair(patient.store(), RepairKind::leaks));
    BOOST_TEST(report.after.leaks == 0);
    BOOST_TEST(report.after.corruptions == report.before.corruptions);
    BOOST_TEST(header_of(patient.store()).incompatible_features == 3);
}

BOOST_AUTO_TEST_CASE(counts_alone_are_raised_in_place)
{
    Patient patient(snapshot_spec());
    const Header before = header_of(patient.store());
    for (const std::uint64_t cluster : {0, 1, 7, 600})
        patient.set_refcount(patient.host(cluster), 0);
    patient.put_byte(79, 1);
    BOOST_TEST(must(repair(patient.store(), RepairKind::all)).after.sound());
    BOOST_CHECK(header_of(patient.store()) == before);  // nothing moved
    expect_sound(patient);
}

BOOST_AUTO_TEST_CASE(H1_bits_and_counts_change_in_one_sector)
{
    Patient patient(snapshot_spec());
    make_ill(patient);
    const std::uint64_t end = patient.store().size();
    RecordingStore store(patient.store());
    const RepairReport report = must(repair(store, RepairKind::all));
    BOOST_TEST(report.after.sound(), report.after.text());
    expect_sound(patient);
    const Header header = header_of(patient.store());
    BOOST_TEST(is_at_end(patient, header.refcount_table_offset, end));
    BOOST_TEST(is_at_end(patient, header.l1_table_offset, end));
    // Before the header nothing was written inside what was there.
    const Recording recording = store.recording();
    const std::size_t commit = recording.find(
        0, [](const Operation &o) { return o.kind == Operation::Kind::write_durable; });
    for (std::size_t i = 0; i < commit; ++i)
        if (recording.operations[i].writes()) {
            BOOST_TEST(recording.operations[i].offset >= end);
            BOOST_TEST(
                recording.is_durable(recording.operations[i], recording.operations[commit].begun));
        }
    BOOST_TEST(recording.operations.at(commit).offset == 0);
    BOOST_TEST(recording.operations.at(commit).length == 512);
}

BOOST_AUTO_TEST_CASE(W6_in_place_where_the_store_cannot_grow)
{
    Patient first(snapshot_spec());
    make_ill(first);
    // Nothing free inside, and no room behind.
    MemoryStore below(first.store().image(),
                      {.can_grow = false, .size_limit = first.store().size()});
    RecordingStore store(below);
    const RepairReport report = must(repair(store, RepairKind::all));
    BOOST_TEST(report.after.sound(), report.after.text());
    BOOST_TEST(clean_stop_verdict(below.image(), first.reference()) == "");
    BOOST_CHECK(header_of(below).l1_table_offset == first.header().l1_table_offset);
}

BOOST_AUTO_TEST_CASE(a_fixed_store_with_room_inside_is_used)
{
    Patient first(snapshot_spec());
    make_ill(first);
    for (int i = 0; i < 20; ++i)
        first.new_cluster();
    MemoryStore store(first.store().image(),
                      {.can_grow = false, .size_limit = first.store().size()});
    BOOST_TEST(must(repair(store, RepairKind::all)).after.sound());
    BOOST_TEST(clean_stop_verdict(store.image(), first.reference()) == "");
    BOOST_CHECK(header_of(store).l1_table_offset != first.header().l1_table_offset);
}

BOOST_AUTO_TEST_CASE(a_table_that_is_gone_is_made_anew)
{
    for (const std::uint64_t entry :
         {std::uint64_t(0), std::uint64_t(0x1000001), std::uint64_t(1) << 40}) {
        Patient patient(snapshot_spec());
        patient.put(patient.header().refcount_table_offset.value, entry);
        const RepairReport report = must(repair(patient.store(), RepairKind::all));
        BOOST_TEST(!report.before.leaks_at_worst());
        BOOST_TEST(report.after.sound(), report.after.text());
        expect_sound(patient);
    }
    Patient patient(snapshot_spec());
    patient.put(48, std::uint64_t(1) << 40);
    BOOST_TEST(must(repair(patient.store(), RepairKind::all)).after.sound());
    expect_sound(patient);
}

BOOST_AUTO_TEST_CASE(a_cluster_with_two_names_is_counted_twice_and_copied_when_written)
{
    Patient patient(plain_spec());
    patient.put(patient.l2(1), patient.word(patient.l2(0)));
    const RepairReport report = must(repair(patient.store(), RepairKind::all));
    BOOST_TEST(report.after.sound(), report.after.text());
    const ImageReader reader = must(ImageReader::open(patient.store()));
    for (const std::uint64_t cluster : {0, 1})
        BOOST_TEST((must(reader.l2_entry(GuestCluster(cluster))) & entry_copied) == 0);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_mended_stays_in_the_report)
{
    Patient patient(plain_spec());
    make_ill(patient);
    patient.put(patient.l2(1), patient.word(patient.l2(1)) | 2);  // a reserved bit
    const RepairReport report = must(repair(patient.store(), RepairKind::all));
    BOOST_TEST(report.after.corruptions == 1, report.after.text());
    // Refcounts can be trusted; the image is still corrupt.
    BOOST_TEST(header_of(patient.store()).incompatible_features == incompatible::corrupt);
}

BOOST_AUTO_TEST_CASE(nothing_is_lowered_if_a_table_cannot_be_followed)
{
    Patient patient(snapshot_spec());
    const std::uint64_t snapshot_l1 = patient.snapshots();
    patient.put(snapshot_l1, patient.word(snapshot_l1) + (std::uint64_t(1) << 40));
    patient.set_refcount(patient.host(0), 0);
    const RepairReport report = must(repair(patient.store(), RepairKind::all));
    BOOST_TEST(report.before.leaks > 0);
    BOOST_TEST(report.after.leaks == report.before.leaks);
    BOOST_TEST(report.after.corruptions < report.before.corruptions);
    BOOST_TEST(!must(repair(patient.store(), RepairKind::leaks)).changed);
}

BOOST_AUTO_TEST_CASE(counts_that_do_not_fit_are_found_before_anything_is_written)
{
    ImageSpec spec = plain_spec();
    spec.refcount_order = 0;
    Patient patient(spec);
    patient.put(patient.l2(1), patient.word(patient.l2(0)));
    RecordingStore store(patient.store());
    const auto report = repair(store, RepairKind::all);
    BOOST_REQUIRE(!report);
    BOOST_CHECK(report.error().code == Errc::unsupported);
    BOOST_TEST(report.error().what == "refcounts of 1 bits are too narrow for what is used");
    BOOST_TEST(store.recording().operations.empty());
}

BOOST_AUTO_TEST_CASE(H4_unknown_autoclear_bits_go_first)
{
    Patient patient(plain_spec());
    patient.set_refcount(patient.new_cluster(), 1);
    patient.put_byte(94, 0x80);
    must(repair(patient.store(), RepairKind::leaks));
    BOOST_TEST(header_of(patient.store()).autoclear_features == autoclear::bitmaps);
}

BOOST_AUTO_TEST_CASE(the_dirty_bit_is_seen)
{
    Patient patient(plain_spec());
    BOOST_TEST(!must(needs_repair(patient.store())));
    patient.put_byte(79, 3);
    BOOST_TEST(!must(needs_repair(patient.store())));
    patient.put_byte(79, 1);
    BOOST_TEST(must(needs_repair(patient.store())));
    BOOST_TEST(must(repair(patient.store(), RepairKind::all)).changed);
    BOOST_TEST(!must(needs_repair(patient.store())));
    expect_sound(patient);
}

BOOST_AUTO_TEST_CASE(a_read_only_store_is_not_repaired)
{
    Patient patient(plain_spec());
    MemoryStore store(patient.store().image(), {.read_only = true});
    const auto report = repair(store, RepairKind::all);
    BOOST_CHECK(!report && report.error().code == Errc::read_only);
}

// Found in the wild: only leaks, and the L2 table that was moved to set its bits
// had an L1 entry without one.
BOOST_AUTO_TEST_CASE(leaks_leaves_a_table_that_it_moves_with_bit_63)
{
    Patient patient(plain_spec());
    patient.set_refcount(patient.host(1), 2);
    patient.put(patient.l2(1), patient.word(patient.l2(1)) & ~entry_copied);
    const std::uint64_t table = patient.l2(0) & ~(patient.cluster_size() - 1);
    patient.set_refcount(table, 2);
    patient.put(patient.l1(0), patient.word(patient.l1(0)) & ~entry_copied);
    BOOST_REQUIRE(must(check(patient.store())).leaks_at_worst());
    const RepairReport report = must(repair(patient.store(), RepairKind::leaks));
    BOOST_TEST(report.before.leaks == 2u);
    BOOST_TEST(report.after.sound(), report.after.text());
    expect_sound(patient);
}

BOOST_AUTO_TEST_SUITE_END()
