// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Rules W: what reached the store, in which order.

#include "tests/order/order.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_writes)

namespace {

constexpr std::uint64_t far_cluster = 1000;  // its L2 table does not exist

// Into a store of fixed size: nothing is fresh.
StoreOptions fixed()
{
    return {.can_grow = false, .size_limit = 4 << 20, .discarded = Discarded::garbage};
}

// The operation that puts the name of a cluster into an L1 or L2 entry.
std::size_t naming(const Recording &recording, HostOffset place, HostOffset named)
{
    return find_word(recording, 0, place, 8,
                     [&](std::uint64_t word) { return (word & entry_offset_mask) == named.value; });
}

void expect_counted_before_named(const Order &order, HostOffset place, HostOffset named)
{
    const Recording recording = order.recording();
    const std::size_t name = naming(recording, place, named);
    BOOST_REQUIRE_MESSAGE(name < recording.operations.size(), recording.text());
    const std::size_t count = find_word(recording, 0, order.refcount_place(named), 2,
                                        [](std::uint64_t word) { return word == 1; });
    BOOST_REQUIRE(count < recording.operations.size());
    BOOST_TEST(recording.is_durable(recording.operations[count], recording.operations[name].begun),
               recording.text());
}

}  // namespace

BOOST_AUTO_TEST_CASE(W1_a_data_cluster_is_counted_durably_before_it_is_named)
{
    for (const StoreOptions &options : {StoreOptions(), fixed()}) {
        Order order(order_spec(), options);
        must(order.disk().begin_writing());
        order.write(5, 7);
        must(order.disk().flush());
        expect_counted_before_named(order, order.l2_place(5), order.host_of(5));
    }
}

BOOST_AUTO_TEST_CASE(W1_an_L2_table_is_counted_durably_before_it_is_named)
{
    for (const StoreOptions &options : {StoreOptions(), fixed()}) {
        Order order(order_spec(), options);
        must(order.disk().begin_writing());
        order.write(far_cluster, 7);
        must(order.disk().flush());
        expect_counted_before_named(order, order.l1_place(far_cluster),
                                    order.l2_table(far_cluster));
        expect_counted_before_named(order, order.l2_place(far_cluster), order.host_of(far_cluster));
    }
}

// Where the cluster is not fresh, the padding of a small write too.
BOOST_AUTO_TEST_CASE(W2_all_bytes_of_a_cluster_are_durable_before_it_is_named)
{
    for (const std::uint64_t cluster : {std::uint64_t(5), far_cluster}) {
        Order order(order_spec(), fixed());
        must(order.disk().begin_writing());
        const GuestOffset offset((cluster << 12) + 700);
        must(order.disk().write(offset, payload(offset, 100, 7), false));
        must(order.disk().flush());
        const Recording recording = order.recording();
        const HostOffset host = order.host_of(cluster);
        const std::size_t name = naming(recording, order.l2_place(cluster), host);
        BOOST_REQUIRE(name < recording.operations.size());
        BOOST_TEST(durably_written(recording, Range::of(host.value, 4096),
                                   recording.operations[name].begun),
                   recording.text());
    }
}

BOOST_AUTO_TEST_CASE(W2_all_bytes_of_an_L2_table_are_durable_before_it_is_named)
{
    Order order(order_spec(), fixed());
    must(order.disk().begin_writing());
    order.write(far_cluster, 7);
    must(order.disk().flush());
    const Recording recording = order.recording();
    const HostOffset table = order.l2_table(far_cluster);
    const std::size_t name = naming(recording, order.l1_place(far_cluster), table);
    BOOST_REQUIRE(name < recording.operations.size());
    BOOST_TEST(
        durably_written(recording, Range::of(table.value, 4096), recording.operations[name].begun),
        recording.text());
}

BOOST_AUTO_TEST_CASE(W2_of_a_fresh_cluster_the_payload_is_enough)
{
    Order order(order_spec());
    must(order.disk().begin_writing());
    const GuestOffset offset((5 << 12) + 700);
    must(order.disk().write(offset, payload(offset, 100, 7), false));
    must(order.disk().flush());
    const Recording recording = order.recording();
    const HostOffset host = order.host_of(5);
    const std::size_t name = naming(recording, order.l2_place(5), host);
    BOOST_REQUIRE(name < recording.operations.size());
    const std::uint64_t begun = recording.operations[name].begun;
    BOOST_TEST(durably_written(recording, Range::of(host.value + 700, 100), begun));
    // If more was written it is no mistake, but dear.
    BOOST_TEST(!durably_written(recording, Range::of(host.value, 4096), begun));
}

// Each write of the last byte of a cluster: in front of it there are zeros.
void expect_zeros_around_small_writes(Order &order, std::uint64_t first)
{
    const std::uint64_t cluster_size = order.geometry().cluster_size();
    const std::uint64_t clusters = order.disk().size() / cluster_size;
    Buffer found(cluster_size), expected(cluster_size);
    expected.back() = 0xee;
    for (std::uint64_t cluster = first; cluster < clusters; ++cluster) {
        const GuestOffset offset(cluster * cluster_size);
        must(order.disk().write(offset + (cluster_size - 1), Buffer(1, 0xee), false));
        must(order.disk().read(offset, found));
        BOOST_REQUIRE_MESSAGE(found == expected, "guest cluster " << cluster);
    }
}

// There is room for longer refcount tables, and not for the L1 table that needs
// them. The old tables stood in space that is ours.
BOOST_AUTO_TEST_CASE(W2_a_refcount_table_that_was_replaced_leaves_nothing_fresh)
{
    ImageSpec spec = order_spec();
    spec.cluster_bits = 9;
    spec.size = std::uint64_t(14) << 20;
    spec.clusters = {{0, Preset::data}};
    Order order(spec, {.growth_step = 65536, .size_limit = std::uint64_t(40) << 20});
    must(order.disk().begin_writing());
    const auto resized = order.disk().resize(std::uint64_t(64) << 30);
    BOOST_REQUIRE(!resized);
    BOOST_TEST((resized.error().code == Errc::no_space));
    expect_zeros_around_small_writes(order, 1);
}

// A repair, or who made the image, in this process, in space that it added.
BOOST_AUTO_TEST_CASE(W2_what_the_file_has_when_it_is_opened_is_not_fresh)
{
    Order order(order_spec());
    MemoryStore &memory = order.memory();
    const std::uint64_t end = memory.size();
    must(memory.grow(end + (64 << 10)));
    must(memory.write(end, Buffer(64 << 10, 0x5a)));
    order.open_again();
    must(order.disk().begin_writing());
    expect_zeros_around_small_writes(order, 3);
}

// A zero cluster keeps its host cluster, in which anything may stand.
BOOST_AUTO_TEST_CASE(W2_a_kept_cluster_is_written_before_its_zero_bit_is_cleared)
{
    Order order(order_spec());
    must(order.disk().begin_writing());
    const HostOffset host = order.host_of(2);
    const GuestOffset offset((2 << 12) + 700);
    must(order.disk().write(offset, payload(offset, 100, 7), false));
    must(order.disk().flush());
    BOOST_REQUIRE(order.host_of(2) == host);
    const Recording recording = order.recording();
    const std::size_t name = find_word(recording, 0, order.l2_place(2), 8, [](std::uint64_t word) {
        return (word & l2_entry_zero) == 0;
    });
    BOOST_REQUIRE(name < recording.operations.size());
    BOOST_TEST(
        durably_written(recording, Range::of(host.value, 4096), recording.operations[name].begun));
}

BOOST_AUTO_TEST_CASE(W3_a_refcount_falls_after_the_name_is_durably_gone)
{
    Order order(order_spec());
    must(order.disk().begin_writing());
    const HostOffset host = order.host_of(0);
    const HostOffset place = order.l2_place(0);
    order.trim(0);
    must(order.disk().flush());
    must(order.disk().settle());
    const Recording recording = order.recording();
    const std::size_t gone = find_word(recording, 0, place, 8, [&](std::uint64_t word) {
        return (word & entry_offset_mask) != host.value;
    });
    BOOST_REQUIRE(gone < recording.operations.size());
    const std::size_t fallen = find_word(recording, 0, order.refcount_place(host), 2,
                                         [](std::uint64_t word) { return word == 0; });
    BOOST_REQUIRE_MESSAGE(fallen < recording.operations.size(), recording.text());
    BOOST_TEST(recording.is_durable(recording.operations[gone], recording.operations[fallen].begun),
               recording.text());
}

// The store is full: the only room is a cluster that was just trimmed.
BOOST_AUTO_TEST_CASE(W3_a_released_cluster_is_not_taken_before_its_name_is_durably_gone)
{
    StoreOptions options{.can_grow = false, .discarded = Discarded::garbage};
    Order order(order_spec(), options);
    must(order.disk().begin_writing());
    // All that is free.
    std::uint64_t cluster = 10;
    while (order.disk().write(GuestOffset(cluster << 12), Buffer(4096, 1), false))
        ++cluster;
    must(order.disk().flush());
    const HostOffset host = order.host_of(0);
    const HostOffset place = order.l2_place(0);
    const std::size_t before = order.recording().operations.size();
    order.trim(0);
    order.write(cluster, 7);
    must(order.disk().flush());
    BOOST_REQUIRE(order.host_of(cluster) == host);

    const Recording recording = order.recording();
    const std::size_t gone = find_word(recording, before, place, 8, [&](std::uint64_t word) {
        return (word & entry_offset_mask) != host.value;
    });
    BOOST_REQUIRE(gone < recording.operations.size());
    const std::size_t reused = recording.find(before, [&](const Operation &operation) {
        return operation.writes() && operation.range().overlaps(Range::of(host.value, 4096));
    });
    BOOST_REQUIRE(reused < recording.operations.size());
    BOOST_TEST(recording.is_durable(recording.operations[gone], recording.operations[reused].begun),
               recording.text());
}

BOOST_AUTO_TEST_CASE(W4_a_flush_returns_when_data_and_mapping_are_durable)
{
    for (const std::uint64_t cluster : {std::uint64_t(5), far_cluster}) {
        Order order(order_spec());
        must(order.disk().begin_writing());
        order.write(cluster, 7);
        must(order.disk().flush());
        const std::uint64_t returned = order.now();
        const Recording recording = order.recording();
        const HostOffset host = order.host_of(cluster);
        BOOST_REQUIRE(host.value != 0);
        BOOST_TEST(durably_written(recording, Range::of(host.value, 4096), returned));
        const std::size_t name = naming(recording, order.l2_place(cluster), host);
        BOOST_REQUIRE(name < recording.operations.size());
        BOOST_TEST(recording.is_durable(recording.operations[name], returned), recording.text());
    }
}

BOOST_AUTO_TEST_CASE(W4_so_does_a_write_with_fua)
{
    Order order(order_spec());
    must(order.disk().begin_writing());
    const GuestOffset offset(far_cluster << 12);
    must(order.disk().write(offset, payload(offset, 4096, 7), true));
    const std::uint64_t returned = order.now();
    const Recording recording = order.recording();
    const HostOffset host = order.host_of(far_cluster);
    BOOST_REQUIRE(host.value != 0);
    BOOST_TEST(durably_written(recording, Range::of(host.value, 4096), returned));
    const std::size_t name = naming(recording, order.l2_place(far_cluster), host);
    BOOST_REQUIRE(name < recording.operations.size());
    BOOST_TEST(recording.is_durable(recording.operations[name], returned), recording.text());
}

BOOST_AUTO_TEST_CASE(W4_a_flush_after_pure_overwrites_is_one_flush)
{
    Order order(order_spec());
    must(order.disk().begin_writing());
    order.write(0, 7);
    must(order.disk().flush());
    const std::size_t before = order.recording().operations.size();
    order.write(0, 8);
    must(order.disk().flush());
    const Recording recording = order.recording();
    BOOST_REQUIRE_EQUAL(recording.operations.size() - before, 2u);
    BOOST_TEST((recording.operations[before].kind == Operation::Kind::write));
    BOOST_TEST((recording.operations[before + 1].kind == Operation::Kind::flush));
}

BOOST_AUTO_TEST_CASE(W5_after_a_failed_flush_nothing_goes_down_and_reads_go_on)
{
    Order order(order_spec());
    must(order.disk().begin_writing());
    order.write(0, 7);
    must(order.disk().flush());
    order.write(1, 8);
    order.plan().arm({.kinds = Fault::flushes});
    const Result<void> failed = order.disk().flush();
    BOOST_REQUIRE(!failed);
    BOOST_TEST((failed.error().code == Errc::io));
    const std::size_t before = order.recording().operations.size();

    Disk &disk = order.disk();
    const std::vector<std::pair<const char *, std::function<Result<void>()>>> requests = {
        {"write", [&] { return disk.write(GuestOffset(0), Buffer(512), false); }},
        {"new cluster", [&] { return disk.write(GuestOffset(100 << 12), Buffer(512), false); }},
        {"trim", [&] { return disk.trim(GuestOffset(0), 4096, false); }},
        {"zero", [&] { return disk.zero(GuestOffset(0), 4096, {}); }},
        {"flush", [&] { return disk.flush(); }},
        {"settle", [&] { return disk.settle(); }},
        {"close", [&] { return disk.close(); }},
    };
    for (const auto &[what, request] : requests) {
        const Result<void> refused = request();
        BOOST_TEST_INFO_SCOPE(what);
        BOOST_TEST(!refused);
        if (refused)
            continue;
        BOOST_TEST((refused.error().code == Errc::io));
        // The first cause.
        BOOST_TEST(refused.error().what.find("injected fault") != std::string::npos,
                   refused.error().what);
    }
    const Recording recording = order.recording();
    BOOST_TEST(recording.operations.size() == before, recording.text());
    Buffer bytes(4096);
    must(order.disk().read(GuestOffset(0), bytes));
    BOOST_TEST(payload_difference(GuestOffset(0), payload(GuestOffset(0), 4096, 7), bytes) == "");
}

// So that a crash finds each sector old or new, however the request lies.
BOOST_AUTO_TEST_CASE(zeros_are_split_where_sectors_end)
{
    ImageSpec spec = order_spec();
    spec.cluster_bits = 21;
    spec.clusters = {{0, Preset::data}};
    Order order(spec);
    must(order.disk().begin_writing());
    const HostOffset host = order.host_of(0);
    order.store().forget();
    must(order.disk().zero(GuestOffset(1000), 900001, {}));
    const Recording recording = order.recording();
    std::uint64_t at = host.value + 1000;
    for (const Operation &operation : recording.operations) {
        if (!operation.writes())
            continue;
        BOOST_TEST(operation.offset == at, recording.text());
        at = operation.range().end;
        BOOST_TEST((at % 512 == 0 || at == host.value + 1000 + 900001), recording.text());
    }
    BOOST_TEST(at == host.value + 1000 + 900001);
}

BOOST_AUTO_TEST_SUITE_END()
