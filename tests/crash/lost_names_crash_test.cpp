// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the power fails while a file grows that was cut? At every moment, and after the
// file has grown once more, what was lost is an error: never zeros, and never what somebody
// wrote there.

#include <boost/test/unit_test.hpp>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/check/repair.h"
#include "core/disk.h"
#include "tests/support/crash_store.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(lost_names_crash)

namespace {

constexpr std::uint64_t cs = 4096;
constexpr std::uint64_t lost_from = 8;  // guest clusters
constexpr std::uint64_t clusters = 12;

// counted: by the refcounts of what is behind the end.
StoreImage cut_image(bool counted, bool bit_wrong)
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 4 << 20;
    for (std::uint64_t i = 0; i < clusters; ++i)
        spec.clusters[i] = Preset::data;
    Patient patient(spec);
    for (std::uint64_t i = lost_from; i < clusters && !counted; ++i)
        patient.set_refcount(patient.host(i), 0);
    if (bit_wrong)
        patient.put(patient.l2(3), patient.word(patient.l2(3)) & ~entry_copied);
    return cut(patient.store().image(), patient.host(lost_from));
}

// Where the refcounts say nothing of it, who writes must meet the names to know of them.
void meet_lost(Disk &disk)
{
    Buffer bytes(cs);
    for (std::uint64_t i = lost_from; i < clusters; ++i)
        BOOST_REQUIRE(!disk.read(GuestOffset(i * cs), bytes));
}

Result<void> grow(Disk &disk)
{
    for (std::uint64_t i = 0; i < 16; ++i)
        TRY(disk.write(GuestOffset((700 + i) * cs), Buffer(cs, std::uint8_t(i + 1)), false));
    return disk.flush();
}

void expect_lost(ByteStore &store)
{
    const auto disk = must(Disk::open(store, {}));
    Buffer bytes(cs);
    for (std::uint64_t i = lost_from; i < clusters; ++i) {
        const auto read = disk->read(GuestOffset(i * cs), bytes);
        BOOST_REQUIRE_MESSAGE(!read && read.error().code == Errc::corrupt,
                              "guest cluster " << i << " is there");
    }
}

void judge(const StoreImage &image, bool counted, std::uint64_t cut_at)
{
    MemoryStore store(image, {.growth_step = 65536});
    expect_lost(store);
    {
        const auto disk = must(Disk::open(store, {}));
        must(disk->begin_writing());
        if (!counted)
            meet_lost(*disk);
        must(grow(*disk));
        must(disk->close());
    }
    BOOST_TEST(store.size() > cut_at + (clusters - lost_from) * cs);
    expect_lost(store);
    BOOST_TEST(must(check(store)).count_of(Finding::data_cluster_past_end) == clusters - lost_from);
}

template <class Act>
void cut_power_while(bool counted, bool bit_wrong, Act act)
{
    for (const std::uint64_t seed : seeds(4)) {
        SEEDED(seed);
        Random random(seed);
        const StoreImage before = cut_image(counted, bit_wrong);
        CrashStore store(Life::of(before), {.growth_step = 65536});
        act(store);
        CrashWalk walk(store);
        for (std::uint64_t event = 0; event <= walk.events(); ++event) {
            walk.advance_to(event);
            for (unsigned mode = 0; mode < crash_modes; ++mode)
                judge(walk.power_cut(random, static_cast<CrashMode>(mode)), counted, before.size);
        }
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(W7_what_a_cut_file_has_lost_is_never_there_again)
{
    for (const bool counted : {true, false})
        BOOST_TEST_CONTEXT((counted ? "counted" : "not counted"))
    cut_power_while(counted, false, [counted](ByteStore &store) {
        const auto disk = must(Disk::open(store, {}));
        must(disk->begin_writing());
        if (!counted)
            meet_lost(*disk);
        must(grow(*disk));
        must(disk->close());
    });
}

BOOST_AUTO_TEST_CASE(W7_nor_after_a_repair_that_needs_room)
{
    cut_power_while(true, true, [](ByteStore &store) {
        const RepairReport report = must(repair(store, RepairKind::all));
        BOOST_TEST(report.after.corruptions == clusters - lost_from);
    });
}

BOOST_AUTO_TEST_SUITE_END()
