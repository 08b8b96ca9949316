// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Rule O1: on a writable open nothing that was read counts as durable until one
// flush begun after it has succeeded.

#include "tests/order/order.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_opening)

namespace {

ImageSpec with_bitmap()
{
    ImageSpec spec = order_spec();
    spec.bitmaps = {{.name = "b0", .set = {}, .extra_data = {}}};
    return spec;
}

bool changes(const Operation &operation)
{
    return operation.writes() || operation.kind == Operation::Kind::grow ||
           operation.kind == Operation::Kind::cut;
}

void expect_flush_before_first_change(const Recording &recording)
{
    const std::size_t change = recording.find(0, changes);
    BOOST_REQUIRE(change < recording.operations.size());
    const std::size_t flush = recording.find(
        0, [](const Operation &operation) { return operation.kind == Operation::Kind::flush; });
    BOOST_REQUIRE_MESSAGE(flush < change, recording.text());
    BOOST_TEST(recording.operations[flush].succeeded);
    BOOST_TEST(recording.operations[flush].returned < recording.operations[change].begun);
}

}  // namespace

BOOST_AUTO_TEST_CASE(O1_opening_changes_nothing)
{
    Order order(with_bitmap());
    BOOST_TEST(order.recording().operations.size() == 0u);
    Buffer bytes(4096);
    must(order.disk().read(GuestOffset(0), bytes));
    BOOST_TEST(order.recording().operations.size() == 0u);
}

BOOST_AUTO_TEST_CASE(O1_a_flush_has_succeeded_before_the_first_change)
{
    Order order(with_bitmap());
    must(order.disk().begin_writing());
    order.write(0, 7);  // in place
    expect_flush_before_first_change(order.recording());
}

BOOST_AUTO_TEST_CASE(O1_also_if_the_first_change_is_a_new_bitmap)
{
    Order order(order_spec(), {}, with_new_bitmap());
    must(order.disk().begin_writing());
    expect_flush_before_first_change(order.recording());
}

BOOST_AUTO_TEST_CASE(O1_no_change_goes_down_if_that_flush_fails)
{
    Order order(with_bitmap());
    order.plan().arm({.kinds = Fault::flushes, .forever = true});
    const Result<void> begun = order.disk().begin_writing();
    if (begun) {
        const Result<void> written = order.disk().write(GuestOffset(0), Buffer(512, 1), false);
        BOOST_TEST(!written);
    }
    const Recording recording = order.recording();
    BOOST_TEST(recording.find(0, [](const Operation &o) { return o.writes(); }) ==
               recording.operations.size());
}

BOOST_AUTO_TEST_SUITE_END()
