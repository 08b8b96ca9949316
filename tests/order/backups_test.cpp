// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What a backup does to the file: nothing.

#include <boost/test/unit_test.hpp>

#include "tests/order/order.h"
#include "tests/support/frozen_disk_driver.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(backup_order)

namespace {

ImageSpec backup_spec()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 64 << 12;
    for (std::uint64_t cluster = 0; cluster < 16; ++cluster)
        spec.clusters.emplace(cluster, Preset::data);
    spec.bitmaps = {{.name = "b0", .granularity_bits = 12, .set = {{3, 5}}, .extra_data = {}}};
    return spec;
}

// All that the store is asked for, but reads.
std::vector<std::string> operations(bool backs_up)
{
    MemoryScratchMaker maker;
    DiskOptions options;
    options.scratch = &maker;
    Order order(backup_spec(), {}, options);
    must(order.disk().begin_writing());
    order.write(1, 1);
    std::shared_ptr<const Backup> backup;
    BackupRequest request;
    request.id = "mon";
    request.bitmaps = {"b0"};
    request.incremental = true;
    if (backs_up)
        backup = must(order.disk().begin_backup(request));
    order.write(2, 2);
    must(order.disk().flush());
    order.write(40, 3);
    must(order.disk().zero(GuestOffset(6 << 12), 3 << 12, {}));
    must(order.disk().write(GuestOffset(12 << 12), Buffer(512, 4), true));
    if (backup) {
        Buffer content(backup->disk->size());
        must(backup->disk->read(GuestOffset(0), content));
        BOOST_TEST(backup->disk->scratch_bytes() == 5u << 12);
        must(order.disk().end_backup("mon", false));
    }
    order.write(9, 5);
    must(order.disk().close());
    std::vector<std::string> all;
    for (const Operation &operation : order.recording().operations) {
        std::string text = std::to_string(int(operation.kind)) + " " +
                           std::to_string(operation.offset) + " " +
                           std::to_string(operation.length) + " ";
        text.append(operation.data.begin(), operation.data.end());
        all.push_back(std::move(text));
    }
    return all;
}

}  // namespace

BOOST_AUTO_TEST_CASE(F4_F5_a_backup_that_does_not_succeed_does_nothing_to_the_file)
{
    const std::vector<std::string> with = operations(true), without = operations(false);
    BOOST_TEST(with.size() == without.size());
    BOOST_TEST((with == without));
}

BOOST_AUTO_TEST_SUITE_END()
