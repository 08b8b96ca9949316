// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the power fails while a snapshot is made, deleted or applied?

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>

#include "tests/support/crash_store.h"
#include "tests/support/snapshot_images.h"
#include "tests/support/structural.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(snapshot_crash)

// Whatever a crash has left: the next change works, and sets the bits 63 that were left clear.
void goes_on_with_room(const StoreImage &image, Random &random)
{
    const SnapshotOperation &next =
        snapshot_operations[random.below(std::size(snapshot_operations))];
    BOOST_TEST_INFO_SCOPE("then " << next);
    MemoryStore store(image);
    const auto disk = must(Disk::open(store, {}));
    const bool kept = std::ranges::any_of(
        must(disk->snapshots()), [](const auto &snapshot) { return snapshot.name == "kept"; });
    if (!kept && std::string_view(next.name) != "create")
        return;
    must(next.run(*disk));
    must(disk->close());
    const CheckReport report = must(check(store));
    BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), report.text());
}

BOOST_DATA_TEST_CASE(H1_it_takes_place_wholly_or_not_at_all, data::make(snapshot_operations),
                     operation)
{
    for (const std::uint64_t seed : seeds(8)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec;
        const StoreImage image = image_with_snapshots(random, spec);
        BOOST_TEST_INFO_SCOPE(spec.text());
        const Structural structural(image, operation.run, {},
                                    {.growth_step = random.pick<std::uint64_t>({1, 65536})});
        BOOST_TEST(structural.crash_at_every_event(random) > 3u);
    }
}

// Without room: in place.
BOOST_DATA_TEST_CASE(W6_in_place_it_takes_place_wholly_or_not_at_all,
                     data::make(snapshot_operations), operation)
{
    for (const std::uint64_t seed : seeds(8)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec;
        StoreImage image = image_with_snapshots(random, spec);
        BOOST_TEST_INFO_SCOPE(spec.text());
        const StoreOptions options = without_room(image, spec, operation);
        const DiskState before = must(state_of(image));
        CrashStore store(Life::of(image), options);
        {
            const auto disk = must(Disk::open(store, {}));
            must(operation.run(*disk));
            must(disk->close());
        }
        const DiskState after = must(state_of(store.image()));
        CrashWalk walk(store);
        for (std::uint64_t event = 0; event <= walk.events(); ++event) {
            walk.advance_to(event);
            for (unsigned mode = 0; mode < crash_modes; ++mode) {
                const StoreImage cut = walk.power_cut(random, static_cast<CrashMode>(mode));
                in_place_is_harmless(cut, operation);
                const DiskState state = must(state_of(cut));
                BOOST_REQUIRE_MESSAGE(state == before || state == after, state.text());
                if (random.one_in(8))
                    goes_on_with_room(cut, random);
            }
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
