// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images with damage of any kind, and faults while they are repaired: nothing gets worse.

#include "tests/unit/check/repaired.h"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <algorithm>

#include "core/base/log.h"
#include "core/disk.h"
#include "tests/support/damage.h"
#include "tests/support/fault_store.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(repair_test)

namespace {

// Where the guest reads something else, in words; empty if nowhere. What could
// not be read may be what it wants.
std::string what_reads_otherwise(const StoreImage &before, const StoreImage &after)
{
    DiskOptions options;
    options.read_only = true;
    ImageView then(before), now(after);
    const auto was = Disk::open(then, options);
    const auto is = Disk::open(now, options);
    if (!was)
        return {};
    if (!is)
        return "the disk cannot be opened any more: " + is.error().what;
    Buffer read(4096), now_read(4096);
    for (std::uint64_t at = 0; at < (*was)->size(); at += read.size()) {
        const std::uint64_t length = std::min<std::uint64_t>(read.size(), (*was)->size() - at);
        const MutableBytes a = sub(MutableBytes(read), 0, length),
                           b = sub(MutableBytes(now_read), 0, length);
        if (!(*was)->read(GuestOffset(at), a))
            continue;
        if (const auto result = (*is)->read(GuestOffset(at), b); !result)
            return "guest offset " + hex(at) + ": " + result.error().what + "\n";
        if (!std::ranges::equal(a, b))
            return "guest offset " + hex(at) + " reads otherwise\n";
    }
    return {};
}

}  // namespace

// Whatever was done to its refcounts, an image is sound afterwards, and has
// what it had.
BOOST_DATA_TEST_CASE(random_damage,
                     data::make({Damage::leaks, Damage::shares, Damage::counts, Damage::bits,
                                 Damage::structure}),
                     kind)
{
    for (const std::uint64_t seed : seeds(40)) {
        SEEDED(seed);
        Random random(seed);
        const ImageSpec spec = random_spec(random);
        BOOST_TEST_INFO_SCOPE(spec.text());
        Patient patient(spec);
        BOOST_TEST_INFO_SCOPE(damage(patient.store(), random, kind));
        const bool fixed = kind != Damage::structure && random.one_in(3);
        MemoryStore store(
            patient.store().image(),
            fixed ? StoreOptions{.can_grow = false, .size_limit = patient.store().size()}
                  : StoreOptions{.discarded = Discarded::garbage});
        const auto report = repair(
            store, kind <= Damage::shares && random.coin() ? RepairKind::leaks : RepairKind::all);
        BOOST_REQUIRE_MESSAGE(report, words(report));
        BOOST_REQUIRE_MESSAGE(report->after.sound(), report->before.text() << report->after.text());
        BOOST_REQUIRE_EQUAL(clean_stop_verdict(store.image(), patient.reference()), "");
        BOOST_REQUIRE_EQUAL(header_of(store).incompatible_features & 3, 0);
        if (seed % 8 == 0 && spec.qemu_opens())
            BOOST_REQUIRE_EQUAL(qemu_verdict(store.image(), false), "");
    }
}

// After any repair of anything check finds no more than before, in every class,
// the guest reads what it read, and a second repair changes nothing.
BOOST_DATA_TEST_CASE(no_repair_makes_anything_worse,
                     data::make({Damage::leaks, Damage::shares, Damage::counts, Damage::bits,
                                 Damage::structure, Damage::words}) *
                         data::make({false, true}),
                     damaged, leaks_alone)
{
    const RepairKind kind = leaks_alone ? RepairKind::leaks : RepairKind::all;
    for (const std::uint64_t seed : seeds(40)) {
        SEEDED(seed);
        Random random(seed);
        const ImageSpec spec = random_spec(random, 0, 1 << 20);
        BOOST_TEST_INFO_SCOPE(spec.text());
        Patient patient(spec);
        BOOST_TEST_INFO_SCOPE(damage(patient.store(), random, damaged));
        const StoreImage ill = patient.store().image();
        MemoryStore store(ill, random.one_in(3)
                                   ? StoreOptions{.can_grow = false, .size_limit = ill.size}
                                   : StoreOptions{.discarded = Discarded::garbage});
        const auto before = check(store);
        const auto report = repair(store, kind);
        if (!before) {
            BOOST_REQUIRE(!report);
            continue;
        }
        const CheckReport after = must(check(store));
        for (std::size_t f = 0; f < finding_kinds; ++f)
            BOOST_REQUIRE_MESSAGE(after.counts[f] <= before->counts[f],
                                  name_of(Finding(f)) << " is new or more:\n"
                                                      << before->text() << "after:\n"
                                                      << after.text());
        // (Who reads metadata as the guest's reads them as they are now.)
        const std::string fault = before->count_of(Finding::data_cluster_is_metadata) == 0
                                      ? what_reads_otherwise(ill, store.image())
                                      : std::string();
        BOOST_REQUIRE_MESSAGE(fault.empty(), fault << before->text() << after.text());
        const StoreImage once = store.image();
        const auto again = repair(store, kind);
        BOOST_REQUIRE_EQUAL(again.has_value(), report.has_value());
        if (again)
            BOOST_REQUIRE_MESSAGE(!again->changed, "again:\n" << after.text());
        BOOST_REQUIRE_EQUAL(store.size(), once.size);
    }
}

// With one thing that fails, the image is no worse, and can be repaired later.
BOOST_AUTO_TEST_CASE(a_fault_at_any_operation_makes_nothing_worse)
{
    for (const bool structure : {false, true}) {
        Patient ill(snapshot_spec());
        make_ill(ill);
        if (structure)
            ill.put(ill.header().refcount_table_offset.value, 0x1000001);
        const CheckReport before = must(check(ill.store()));
        for (const bool lands : {false, true}) {
            const std::uint64_t struck =
                for_each_fault(Fault{.kinds = Fault::all, .lands = lands}, [&](FaultPlan &plan) {
                    MemoryStore memory(ill.store().image());
                    FaultStore store(memory, plan);
                    const auto report = repair(store, RepairKind::all);
                    if (report) {
                        BOOST_TEST(report->after.sound());
                        return;
                    }
                    const CheckReport between = must(check(memory));
                    BOOST_TEST(between.corruptions <= before.corruptions, between.text());
                    BOOST_TEST(between.leaks <= before.leaks, between.text());
                    BOOST_TEST(must(repair(memory, RepairKind::all)).after.sound());
                    BOOST_TEST(clean_stop_verdict(memory.image(), ill.reference()) == "");
                });
            BOOST_TEST(struck > 10);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
