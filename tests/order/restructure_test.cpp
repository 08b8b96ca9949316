// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What holds for every change of the structure, whatever it changes: the
// operation finds a settled file, a failed one leaves all as it was, and what
// comes after goes by what the file says.

#include "tests/order/restructure.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_restructure)

BOOST_AUTO_TEST_CASE(H1_the_operation_finds_a_settled_file)
{
    Order order(with_bitmap());
    must(order.disk().begin_writing());
    order.write(5, 7);  // in a new cluster
    bool found = false;
    must(order.disk().restructure([&](Image &) -> Result<void> {
        order.look([&](const ImageReader &reader) {
            const auto bitmaps = must(reader.bitmaps());
            found = !bitmaps.at(0).entry.in_use() && bitmaps.at(0).bits.test(5) &&
                    !bitmaps.at(0).bits.test(4) && must(reader.l2_entry(GuestCluster(5))) != 0;
        });
        return {};
    }));
    BOOST_TEST(found);
    BOOST_TEST(order.disk().settled());
}

BOOST_AUTO_TEST_CASE(H1_what_is_prepared_is_durable_before_the_header_names_it)
{
    Order order(order_spec());
    HostOffset prepared;
    must(order.disk().restructure([&](Image &image) -> Result<void> {
        Aside aside(image);
        prepared = TRY(aside.write(Buffer(cluster + 1, 0xab)));
        return aside.commit([](HeaderArea &area) { area.header.size /= 2; });
    }));
    const Recording recording = order.recording();
    const std::size_t commit = find_word(recording, 0, HostOffset(24), 8,
                                         [](std::uint64_t size) { return size == 4 << 20; });
    BOOST_REQUIRE(commit < recording.operations.size());
    const std::uint64_t event = recording.operations[commit].begun;
    BOOST_TEST(durably_written(recording, Range::of(prepared.value, 2 * cluster), event));
    BOOST_TEST(
        durably_written(recording, Range::of(order.refcount_place(prepared).value, 4), event));
}

BOOST_AUTO_TEST_CASE(W3_what_is_replaced_falls_after_the_commit)
{
    Order order(order_spec());
    HostOffset old;
    must(order.disk().restructure([&](Image &image) -> Result<void> {
        Aside aside(image);
        old = TRY(aside.write(Buffer(cluster, 1)));
        return aside.commit([](HeaderArea &area) { area.header.size -= 512; });
    }));
    must(order.disk().restructure([&](Image &image) -> Result<void> {
        Aside aside(image);
        aside.replace({image.geometry().cluster_of(old), 1});
        return aside.commit([](HeaderArea &area) { area.header.size /= 2; });
    }));
    const Recording recording = order.recording();
    const std::size_t commit = find_word(recording, 0, HostOffset(24), 8,
                                         [](std::uint64_t size) { return size < 5 << 20; });
    const std::size_t falls = find_word(recording, commit, order.refcount_place(old), 2,
                                        [](std::uint64_t count) { return count == 0; });
    BOOST_REQUIRE(falls < recording.operations.size());
    BOOST_TEST(
        recording.is_durable(recording.operations[commit], recording.operations[falls].begun));
}

BOOST_AUTO_TEST_CASE(a_failed_operation_changes_nothing_and_the_disk_serves_on)
{
    Order order(with_bitmap());
    must(order.disk().begin_writing());
    const std::uint64_t before = clusters_in_use(order);
    const Result<void> done = order.disk().restructure([](Image &image) -> Result<void> {
        Aside aside(image);
        TRY(aside.write(Buffer(5 * cluster, 1)));
        return Error(Errc::busy, "not today");
    });
    BOOST_REQUIRE(!done);
    BOOST_TEST(done.error().what == "not today");
    BOOST_TEST(clusters_in_use(order) == before);
    BOOST_TEST(order.disk().size() == 8u << 20);
    order.write(5, 7);
    must(order.disk().close());
}

BOOST_AUTO_TEST_CASE(afterwards_the_disk_is_what_the_file_says)
{
    Order order(with_bitmap());
    order.write(0, 7);
    must(order.disk().restructure([](Image &image) {
        Aside aside(image);
        return aside.commit([](HeaderArea &area) {
            area.header.size /= 2;
            area.header.incompatible_features |= incompatible::corrupt;
        });
    }));
    BOOST_TEST(order.disk().size() == 4u << 20);
    BOOST_REQUIRE(order.disk().why_read_only());
    BOOST_TEST(!order.disk().write(GuestOffset(0), Buffer(512, 1), false));
    must(order.disk().close());
    BOOST_TEST(first_byte(order.disk(), 0) == payload(GuestOffset(0), 1, 7)[0]);
}

BOOST_AUTO_TEST_CASE(requests_behind_a_new_end_are_refused)
{
    Order order(order_spec());
    must(order.disk().restructure(halve));
    const GuestOffset behind(4 << 20);
    Buffer bytes(512);
    const auto refused = [](const auto &result) {
        return !result && result.error().code == Errc::invalid &&
               result.error().what == "the request ends at 0x400200, the disk at 0x400000";
    };
    Disk &disk = order.disk();
    BOOST_TEST(refused(disk.read(behind, bytes)));
    BOOST_TEST(refused(disk.write(behind, bytes, false)));
    BOOST_TEST(refused(disk.zero(behind, 512, {})));
    BOOST_TEST(refused(disk.zero(behind, 512, {.fast = true})));
    BOOST_TEST(refused(disk.trim(behind, 512, false)));
    BOOST_TEST(refused(disk.cache(behind, 512)));
    BOOST_TEST(refused(disk.block_status(behind, 512)));
    must(disk.write(GuestOffset(0), bytes, false));
}

// A cluster that was used and given back lies in space of this process, and is
// fresh no more: not for the image that is opened anew either.
BOOST_AUTO_TEST_CASE(W2_what_was_used_is_not_fresh_afterwards)
{
    Order order(order_spec(), {.growth_step = 1 << 20, .discarded = Discarded::kept});
    must(order.disk().begin_writing());
    for (std::uint64_t c = 100; c < 300; ++c)
        order.write(c, 7);
    must(order.disk().flush());
    for (std::uint64_t c = 100; c < 300; ++c)
        order.trim(c);
    must(order.disk().flush());
    must(order.disk().restructure(nothing));
    for (std::uint64_t c = 400; c < 600; ++c)
        must(order.disk().write(GuestOffset(c * cluster), Buffer(512, 9), false));
    for (std::uint64_t c = 400; c < 600; ++c) {
        Buffer bytes(cluster);
        must(order.disk().read(GuestOffset(c * cluster), bytes));
        BOOST_REQUIRE(all_zero(sub(Bytes(bytes), 512, cluster - 512)));
    }
}

BOOST_AUTO_TEST_CASE(W5_a_disk_that_breaks_after_a_failed_flush_says_so)
{
    Order order(order_spec());
    const Result<void> done = order.disk().restructure([&](Image &image) -> Result<void> {
        order.plan().arm({.kinds = Fault::flushes});
        BOOST_TEST(!image.store().flush());
        order.plan().arm({.kinds = Fault::reads, .forever = true});
        return {};
    });
    order.plan().disarm();
    BOOST_TEST(!done);
    BOOST_TEST(order.disk().failed().has_value());
    BOOST_TEST(order.disk().failed_after_flush());
}

BOOST_AUTO_TEST_CASE(a_disk_that_cannot_be_opened_anew_tells_it_to_every_request)
{
    Order order(order_spec());
    const Result<void> done = order.disk().restructure([&](Image &) -> Result<void> {
        order.plan().arm({.kinds = Fault::reads, .forever = true});
        return {};
    });
    order.plan().disarm();
    const std::string told = "the image could not be opened anew: header";
    const auto tells = [&](const auto &result) {
        return !result && result.error().what.starts_with(told);
    };
    BOOST_TEST(tells(done));
    Disk &disk = order.disk();
    Buffer bytes(512);
    BOOST_TEST(tells(disk.read(GuestOffset(0), bytes)));
    BOOST_TEST(tells(disk.write(GuestOffset(0), bytes, false)));
    BOOST_TEST(tells(disk.flush()));
    BOOST_TEST(tells(disk.settle()));
    BOOST_TEST(tells(disk.restructure(nothing)));
    BOOST_REQUIRE(disk.why_read_only());
    BOOST_TEST(disk.why_read_only()->what.starts_with(told));
    BOOST_REQUIRE(disk.failed());
    BOOST_TEST(disk.failed()->what.starts_with(told));
    BOOST_TEST(!disk.failed_after_flush());
    BOOST_TEST(disk.size() == 0u);
    must(disk.close());
}

// The commit fails and the old header cannot be put back: either may be there.
BOOST_AUTO_TEST_CASE(W5_with_a_header_in_doubt_nothing_is_written)
{
    Order order(with_bitmap());
    must(order.disk().begin_writing());
    order.write(0, 7);
    const Result<void> done = order.disk().restructure([&](Image &image) -> Result<void> {
        order.plan().arm({.kinds = Fault::writes, .forever = true, .lands = true});
        return halve(image);
    });
    order.plan().disarm();
    BOOST_REQUIRE(!done);
    const Result<void> written = order.disk().write(GuestOffset(0), Buffer(512, 1), false);
    BOOST_REQUIRE(!written);
    BOOST_TEST(written.error().what.find(
                   "nothing is written any more: the old header could not be put back") !=
               std::string::npos);
    BOOST_TEST(!order.disk().restructure(nothing));
    BOOST_TEST(order.disk().size() == 8u << 20);
    BOOST_TEST(first_byte(order.disk(), 0) == payload(GuestOffset(0), 1, 7)[0]);
}

BOOST_AUTO_TEST_CASE(W5_a_failed_flush_is_not_forgotten)
{
    Order order(order_spec());
    must(order.disk().restructure([&](Image &image) -> Result<void> {
        TRY(halve(image));
        order.plan().arm({.kinds = Fault::flushes});
        return {};
    }));
    BOOST_TEST(order.disk().size() == 4u << 20);
    const Result<void> written = order.disk().write(GuestOffset(0), Buffer(512, 1), false);
    BOOST_REQUIRE(!written);
    BOOST_TEST(written.error().what.find("nothing is written any more: a flush failed") !=
               std::string::npos);
    first_byte(order.disk(), 0);
}

BOOST_AUTO_TEST_SUITE_END()
