// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the n-th I/O fails while a snapshot is made, deleted or applied?

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>

#include "tests/support/fault_store.h"
#include "tests/support/snapshot_images.h"
#include "tests/support/structural.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(snapshot_fault)

BOOST_DATA_TEST_CASE(any_io_of_it_fails, data::make(snapshot_operations), operation)
{
    for (const std::uint64_t seed : seeds(4)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec;
        const StoreImage image = image_with_snapshots(random, spec);
        BOOST_TEST_INFO_SCOPE(spec.text());
        const Structural structural(image, operation.run, {},
                                    {.growth_step = random.pick<std::uint64_t>({1, 65536})});
        BOOST_TEST(structural.fail_at_every_io() > 10u);
    }
}

// Without room: in place. What comes after may find no room.
BOOST_DATA_TEST_CASE(any_io_of_it_in_place_fails, data::make(snapshot_operations), operation)
{
    for (const std::uint64_t seed : seeds(4)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec;
        StoreImage image = image_with_snapshots(random, spec);
        BOOST_TEST_INFO_SCOPE(spec.text());
        const StoreOptions options = without_room(image, spec, operation);
        const DiskState before = must(state_of(image));
        MemoryStore undisturbed(image, options);
        {
            const auto disk = must(Disk::open(undisturbed, {}));
            must(operation.run(*disk));
            must(disk->close());
        }
        const DiskState after = must(state_of(undisturbed.image()));
        for (const Fault fault : {Fault{.kinds = Fault::reads}, Fault{.kinds = Fault::writes},
                                  Fault{.kinds = Fault::writes, .lands = true},
                                  Fault{.kinds = Fault::writes, .forever = true},
                                  Fault{.kinds = Fault::writes, .errc = Errc::no_space},
                                  Fault{.kinds = Fault::flushes}})
            for_each_fault(fault, [&](FaultPlan &plan) {
                plan.disarm();
                MemoryStore memory(image, options);
                FaultStore store(memory, plan);
                auto disk = must(Disk::open(store, {}));
                plan.arm(plan.fault());
                const Result<void> done = operation.run(*disk);
                plan.disarm();
                BOOST_TEST_INFO_SCOPE("number " << plan.fault().nth << ": " << words(done));
                in_place_is_harmless(memory.image(), operation);
                const DiskState found = must(state_of(memory.image()));
                BOOST_REQUIRE_MESSAGE(found == after || (!done && found == before), found.text());
                // Another state is served only if it is not known which one the
                // header names; then nothing is written any more (W5).
                if (content_of(*disk) != found.content)
                    BOOST_REQUIRE(!disk->write(GuestOffset(0), Buffer(1), false));
                (void)disk->close();
                disk.reset();
                in_place_is_harmless(memory.image(), operation);
                BOOST_REQUIRE(must(state_of(memory.image())) == found);
            });
    }
}

BOOST_AUTO_TEST_SUITE_END()
