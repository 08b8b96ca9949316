// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/snapshot_table.h"

#include <boost/test/unit_test.hpp>

#include "tests/unit/format/bytes_by_hand.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(snapshot_table)

namespace {

const Geometry v3;
const Geometry v2{2, 16, 4, false};
constexpr std::uint64_t active_size = 1 << 20;

// `qemu-img snapshot -c one` of QEMU 7.2, and a second one.
const char *const by_qemu = "0000000000070000 00000001 0001 0003 6b0483d8 2f809d30 0000000000000000"
                            "00000000 00000018"
                            "0000000000000000 0000000000100000 0000000000000000 31 6f6e65 00000000"
                            "0000000000080000 00000002 0001 0003 6b0483d9 00000000 0000000000000005"
                            "00000000 00000018"
                            "0000000100000000 0000000000200000 0000000000000000 32 74776f";

Snapshot plain(const std::string &id, const std::string &name)
{
    Snapshot s;
    s.l1_table_offset = HostOffset(0x70000);
    s.l1_size = 1;
    s.id = id;
    s.name = name;
    s.disk_size = active_size;
    s.extra_data.resize(16);
    store_be64(&s.extra_data[8], active_size);
    return s;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_table_of_QEMU_7_2)
{
    const Buffer bytes = from_hex(by_qemu);
    const auto table = decode_snapshot_table(bytes, 2, active_size, v3);
    BOOST_REQUIRE_MESSAGE(table, said(table));
    BOOST_TEST(table->encoded_size == bytes.size());
    BOOST_REQUIRE(table->snapshots.size() == 2u);
    const Snapshot &one = table->snapshots[0];
    BOOST_TEST(one.id == "1");
    BOOST_TEST(one.name == "one");
    BOOST_TEST(one.l1_table_offset.value == 0x70000u);
    BOOST_TEST(one.l1_size == 1u);
    BOOST_TEST(one.disk_size == 1u << 20);
    BOOST_TEST(one.extra_data.size() == 24u);
    BOOST_TEST(!one.finding);
    const Snapshot &two = table->snapshots[1];
    BOOST_TEST(two.name == "two");
    BOOST_TEST(two.vm_state_size == std::uint64_t(1) << 32);  // the long field counts
    BOOST_TEST(two.disk_size == 2u << 20);
    BOOST_TEST(two.guest_runtime == 5u);

    BOOST_TEST(encode_snapshot_table(table->snapshots) == bytes, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(every_length_that_is_too_short_and_none_that_is_longer)
{
    Buffer bytes = from_hex(by_qemu);
    for (std::size_t length = 0; length < bytes.size(); ++length)
        BOOST_TEST(is(decode_snapshot_table(Bytes(bytes).first(length), 2, active_size, v3),
                      Finding::snapshot_table_past_end));
    const std::size_t size = bytes.size();
    bytes.resize(65536, 0xff);
    BOOST_TEST(decode_snapshot_table(bytes, 2, active_size, v3)->encoded_size == size);
}

BOOST_AUTO_TEST_CASE(round_trips)
{
    std::vector<Snapshot> snapshots;
    for (std::size_t n = 0; n < 20; ++n) {
        Snapshot s = plain(std::to_string(n), std::string(n, 'x'));
        s.vm_state_size = n;
        s.vm_state_size_32 = 77;
        s.extra_data.resize(16 + n * 3, 0xab);  // what nobody knows is kept
        store_be64(s.extra_data.data(), n);
        snapshots.push_back(s);
    }
    const Buffer bytes = encode_snapshot_table(snapshots);
    const auto table = decode_snapshot_table(bytes, 20, 5, v3);
    BOOST_REQUIRE_MESSAGE(table, said(table));
    BOOST_TEST((table->snapshots == snapshots));
    BOOST_TEST(table->encoded_size == bytes.size());
    BOOST_TEST(decode_snapshot_table({}, 0, 5, v3)->encoded_size == 0u);
    BOOST_TEST(encode_snapshot_table({}).empty());
}

BOOST_AUTO_TEST_CASE(encoding_takes_the_sizes_from_the_fields)
{
    Snapshot s = plain("1", "one");
    s.disk_size = 3 << 20;
    s.vm_state_size = 4711;
    const auto table = decode_snapshot_table(encode_snapshot_table({s}), 1, 5, v3);
    BOOST_TEST(table->snapshots[0].disk_size == 3u << 20);
    BOOST_TEST(table->snapshots[0].vm_state_size == 4711u);
}

BOOST_AUTO_TEST_CASE(old_records_say_less)
{
    Snapshot s = plain("1", "one");
    s.extra_data.clear();
    s.vm_state_size_32 = 4711;
    const Buffer bytes = encode_snapshot_table({s});
    const auto table = decode_snapshot_table(bytes, 1, active_size, v2);
    BOOST_REQUIRE(table);
    BOOST_TEST(table->snapshots[0].disk_size == active_size);
    BOOST_TEST(table->snapshots[0].vm_state_size == 4711u);
    BOOST_TEST(!table->snapshots[0].finding);
    // Version 3 must say it; QEMU serves the disk all the same.
    const auto as_v3 = decode_snapshot_table(bytes, 1, active_size, v3);
    BOOST_REQUIRE(as_v3);
    BOOST_TEST((as_v3->snapshots[0].finding == Finding::snapshot_extra_data_too_small));
}

BOOST_AUTO_TEST_CASE(l1_tables_that_cannot_be)
{
    const auto finding_of = [](std::uint64_t offset, std::uint32_t l1_size) {
        Snapshot s = plain("1", "one");
        s.l1_table_offset = HostOffset(offset);
        s.l1_size = l1_size;
        return decode_snapshot_table(encode_snapshot_table({s}), 1, 5, v3)->snapshots[0].finding;
    };
    BOOST_TEST(!finding_of(0x70000, 4 << 20));
    BOOST_TEST(!finding_of(0, 0));
    BOOST_TEST((finding_of(0x70000, (4 << 20) + 1) == Finding::snapshot_l1_wrong));
    BOOST_TEST((finding_of(0x70200, 1) == Finding::snapshot_l1_wrong));
    BOOST_TEST((finding_of(0, 1) == Finding::snapshot_l1_wrong));
    BOOST_TEST((finding_of(0xffffffffffff0000, 1) == Finding::snapshot_l1_wrong));
}

BOOST_AUTO_TEST_CASE(counts_and_lengths_that_are_too_large)
{
    Buffer bytes = encode_snapshot_table({plain("1", "one")});
    BOOST_TEST(is(decode_snapshot_table(bytes, 65537, 5, v3), Finding::snapshot_count_too_large));
    BOOST_TEST(is(decode_snapshot_table(bytes, 65536, 5, v3), Finding::snapshot_table_past_end));
    poke(bytes, 36, 4, 1025);
    BOOST_TEST(is(decode_snapshot_table(bytes, 1, 5, v3), Finding::snapshot_extra_data_too_large));
    poke(bytes, 36, 4, 0xffffffff);
    BOOST_TEST(is(decode_snapshot_table(bytes, 1, 5, v3), Finding::snapshot_extra_data_too_large));
    poke(bytes, 36, 4, 16);
    poke(bytes, 12, 2, 0xffff);
    BOOST_TEST(is(decode_snapshot_table(bytes, 1, 5, v3), Finding::snapshot_table_past_end));
}

BOOST_AUTO_TEST_CASE(a_table_of_more_than_64_MiB)
{
    Snapshot s = plain("1", std::string(0xffff, 'n'));
    s.id.assign(0xffff, 'i');
    const std::vector<Snapshot> many(520, s);
    const Buffer bytes = encode_snapshot_table(many);
    BOOST_REQUIRE(bytes.size() > 64u << 20);
    BOOST_TEST(is(decode_snapshot_table(bytes, 520, 5, v3), Finding::snapshot_table_too_large));
    BOOST_TEST(decode_snapshot_table(bytes, 500, 5, v3).has_value());
}

BOOST_AUTO_TEST_SUITE_END()
