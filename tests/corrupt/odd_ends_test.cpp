// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Ends that go round, and ends behind the end: of requests, and of what an entry names.

#include <boost/test/unit_test.hpp>

#include "core/check/check.h"
#include "core/disk.h"
#include "core/image/snapshot_reader.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"
#include "tests/support/recording_store.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(odd_ends)

namespace {

constexpr std::uint64_t cs = 4096;

ImageSpec image_spec()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 1 << 20;
    spec.clusters = {{0, Preset::data}, {1, Preset::shared_data}};
    return spec;
}

}  // namespace

BOOST_AUTO_TEST_CASE(C11_a_request_whose_end_goes_round_is_refused)
{
    Patient patient(image_spec());
    const StoreImage before = patient.store().image();
    const auto disk = must(Disk::open(patient.store(), {}));
    must(disk->begin_writing());
    const auto snapshot = must(disk->open_snapshot("before"));
    for (const std::uint64_t begin :
         {~std::uint64_t(0), ~std::uint64_t(0) - 511, std::uint64_t(1) << 63}) {
        const GuestOffset offset(begin);
        const std::uint64_t length = std::uint64_t(1) << 63;  // the sum is small, or 0
        Buffer bytes(cs);
        const auto refused = [](const auto &result) {
            BOOST_REQUIRE(!result);
            BOOST_CHECK(result.error().code == Errc::invalid);
        };
        refused(disk->read(offset, bytes));
        refused(disk->write(offset, bytes, true));
        refused(disk->zero(offset, length, {}));
        refused(disk->zero(offset, length, {.fast = true}));
        refused(disk->trim(offset, length, true));
        refused(disk->block_status(offset, length));
        refused(snapshot->read(offset, bytes));
        refused(snapshot->block_status(offset, length));
    }
    must(disk->close());
    BOOST_TEST((patient.store().image().bytes == before.bytes));
}

// A file that ends inside of a cluster, and a compressed cluster that ends in the next one. When
// it is let go of, that one goes, and the file does not reach it.
BOOST_AUTO_TEST_CASE(C11_what_lies_behind_the_end_of_the_file_is_not_given_back)
{
    Patient patient(image_spec());
    const std::uint64_t last = patient.new_cluster();
    constexpr std::uint64_t seven_more_sectors = std::uint64_t(7) << (62 - (12 - 8));
    patient.put(patient.l2(5), l2_entry_compressed | seven_more_sectors | (last + 512));
    patient.set_refcount(last, 2);
    patient.set_refcount(last + cs, 1);
    MemoryStore memory(cut(patient.store().image(), last + 1024));
    RecordingStore store(memory);
    const auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    must(disk->trim(GuestOffset(5 * cs), cs, false));  // which takes no room
    must(disk->flush());
    must(disk->settle());
    BOOST_TEST(memory.size() == last + 1024);
    for (const Operation &operation : store.recording().operations)
        if (operation.kind == Operation::Kind::discard)
            BOOST_TEST(operation.length <= 16 * cs);
    Buffer bytes(cs);
    must(disk->read(GuestOffset(5 * cs), bytes));
    BOOST_TEST((bytes == Buffer(cs)));
    must(disk->close());
    const CheckReport report = must(check(memory));
    BOOST_TEST(report.leaks_at_worst(), report.text());
}

BOOST_AUTO_TEST_SUITE_END()
