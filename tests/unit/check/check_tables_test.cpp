// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What check says of tables: those of the disk, of snapshots, of bitmaps.

#include "tests/unit/check/checked.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(check_)

// --- L1 and L2 tables.

BOOST_AUTO_TEST_CASE(l1_entries)
{
    struct {
        std::uint64_t change;
        Finding finding;
    } const table[] = {
        {1, Finding::l1_entry_reserved_bits},
        {std::uint64_t(1) << 60, Finding::l1_entry_reserved_bits},
        {512, Finding::l1_entry_unaligned},
        {std::uint64_t(1) << 40, Finding::l2_table_past_end},
    };
    for (const auto &line : table) {
        Patient p(plain_spec());
        p.put(p.l1(1), p.word(p.l1(1)) ^ line.change);
        expect(p, line.finding);
    }
    Patient p(plain_spec());
    p.put(p.l1(1), copied);
    expect(p, Finding::copied_flag_wrong);
}

BOOST_AUTO_TEST_CASE(an_l1_entry_that_is_lost_leaks_all_below_it)
{
    Patient p(plain_spec());
    p.put(p.l1(1), 0);
    expect_only(p, Finding::refcount_too_high, 2);  // the table and guest cluster 600
}

BOOST_AUTO_TEST_CASE(l1_tables)
{
    {
        Patient p(plain_spec());
        p.put(32, 1);  // crypt_method 0, l1_size 1
        expect(p, Finding::l1_table_too_small);
    }
    {
        Patient p(plain_spec());
        p.put(40, std::uint64_t(1) << 40);
        expect(p, Finding::l1_table_past_end);
    }
}

BOOST_AUTO_TEST_CASE(l2_entries)
{
    struct {
        std::uint64_t change;
        Finding finding;
    } const table[] = {
        {2, Finding::l2_entry_reserved_bits},
        {std::uint64_t(1) << 60, Finding::l2_entry_reserved_bits},
        {512, Finding::l2_entry_unaligned},
        {std::uint64_t(1) << 40, Finding::data_cluster_past_end},
    };
    for (const auto &line : table) {
        Patient p(plain_spec());
        p.put(p.l2(600), p.word(p.l2(600)) ^ line.change);
        expect(p, line.finding);
    }
}

BOOST_AUTO_TEST_CASE(the_zero_flag_in_version_2)
{
    ImageSpec spec = plain_spec();
    spec.version = 2;
    spec.clusters = {{0, Preset::data}};
    Patient p(spec);
    p.put(p.l2(1), 1);
    expect_only(p, Finding::l2_entry_zero_flag_in_v2);
}

// Every cluster that is touched counts, once for each compressed one.
BOOST_AUTO_TEST_CASE(compressed_clusters)
{
    Patient p(plain_spec());
    const std::uint64_t first = p.new_cluster();
    const std::uint64_t second = p.new_cluster();
    const std::uint64_t compressed = std::uint64_t(1) << 62;
    const std::uint64_t sectors_at = 62 - (12 - 8);
    p.put(p.l2(20), compressed | std::uint64_t(3) << sectors_at | (first + 100));
    p.put(p.l2(21), compressed | std::uint64_t(3) << sectors_at | (first + 3000));
    expect(p, Finding::refcount_too_low);
    p.set_refcount(first, 2);
    p.set_refcount(second, 1);
    BOOST_TEST(report_of(p).sound());
    p.put(p.l2(20), p.word(p.l2(20)) | copied);
    expect_only(p, Finding::l2_entry_compressed_copied);
}

// The refcounts are right, and still two things are in one place.
BOOST_AUTO_TEST_CASE(one_cluster_for_two_purposes)
{
    {
        Patient p(plain_spec());
        const std::uint64_t table = p.header().refcount_table_offset.value;
        p.put(p.l2(20), table);
        p.set_refcount(table, 2);
        expect_only(p, Finding::data_cluster_is_metadata);
    }
    {
        Patient p(plain_spec());
        const std::uint64_t l2_table = p.word(p.l1(0)) & entry_offset_mask;
        p.put(p.l2(20), l2_table);
        p.set_refcount(l2_table, 2);
        p.put(p.l1(0), l2_table);
        expect_only(p, Finding::data_cluster_is_metadata);
    }
    {
        Patient p(bitmap_spec());
        p.put(p.directory(), p.header().l1_table_offset.value);
        p.put_byte(p.directory() + 15, 3);  // in_use: its size does not matter
        p.set_refcount(p.header().l1_table_offset.value, 2);
        expect(p, Finding::tables_overlap);
    }
}

// --- Snapshots.

BOOST_AUTO_TEST_CASE(snapshots_that_are_lost_leak)
{
    Patient p(snapshot_spec());
    p.put(56, p.word(56) & 0xffffffff00000000);  // nb_snapshots 0
    const CheckReport report = report_of(p);
    BOOST_TEST(report.leaks > 2u);
    BOOST_TEST(count_of(report, Finding::refcount_too_low) == 0u);
}

BOOST_AUTO_TEST_CASE(snapshot_records)
{
    {
        Patient p(snapshot_spec());
        p.put(64, align_up(p.store().size(), p.cluster_size()) + (1 << 20));
        expect(p, Finding::snapshot_table_past_end);
    }
    {
        Patient p(snapshot_spec());
        p.put(p.snapshots(), p.word(p.snapshots()) + 512);
        expect(p, Finding::snapshot_l1_wrong);
    }
    {
        Patient p(snapshot_spec());
        p.put(p.snapshots(), std::uint64_t(1) << 40);
        expect(p, Finding::snapshot_l1_wrong);
    }
    {
        Patient p(snapshot_spec());
        p.put(p.snapshots() + 32, 8);  // VM state 0, extra data 8
        expect_only(p, Finding::snapshot_extra_data_too_small);
    }
}

// --- Bitmaps.

BOOST_AUTO_TEST_CASE(bitmaps_that_nobody_vouches_for_leak)
{
    Patient p(bitmap_spec());
    p.put(88, 0);
    expect_only(p, Finding::refcount_too_high, 3);  // directory, table, data
}

BOOST_AUTO_TEST_CASE(B4_refcount_1_on_all_that_is_a_bitmaps)
{
    for (const bool in_use : {false, true})
        for (const std::uint64_t wrong : {0, 2})
            for (int which = 0; which < 3; ++which) {
                Patient p(bitmap_spec(in_use));
                const std::uint64_t table = p.bitmap().bitmap_table_offset.value;
                const std::uint64_t places[] = {p.directory(), table, p.word(table)};
                p.set_refcount(places[which], wrong);
                expect_only(p, wrong == 0 ? Finding::refcount_too_low : Finding::refcount_too_high);
            }
}

BOOST_AUTO_TEST_CASE(bitmap_tables)
{
    struct {
        std::uint64_t raw;
        Finding finding;
    } const table[] = {
        {2, Finding::bitmap_table_entry_reserved_bits},
        {0x4001, Finding::bitmap_table_entry_reserved_bits},
        {0x4200, Finding::bitmap_table_entry_unaligned},
        {std::uint64_t(1) << 40, Finding::bitmap_data_past_end},
    };
    for (const auto &line : table) {
        Patient p(bitmap_spec());
        p.put(p.bitmap().bitmap_table_offset.value, line.raw);
        expect(p, line.finding);
    }
    // Values that need no cluster: the one there was leaks.
    for (const std::uint64_t raw : {0, 1}) {
        Patient p(bitmap_spec());
        p.put(p.bitmap().bitmap_table_offset.value, raw);
        expect_only(p, Finding::refcount_too_high);
    }
}

BOOST_AUTO_TEST_CASE(bitmap_directories)
{
    struct {
        std::uint64_t at;  // from the directory's beginning: 8 bytes
        std::uint64_t value;
        Finding finding;
    } const table[] = {
        {0, 0, Finding::bitmap_table_missing},
        {0, std::uint64_t(1) << 40, Finding::bitmap_table_past_end},
        {8, 0x0000000200000002, Finding::bitmap_table_size_wrong},
        {8, 0x0000000100000012, Finding::bitmap_flags_reserved},
        {16, 0x020c000200000000, Finding::bitmap_type_unknown},
        {16, 0x010c00ff00000000, Finding::bitmap_directory_entry_truncated},
        {24, 0x6230000000000001, Finding::bitmap_directory_padding},
    };
    for (const auto &line : table) {
        Patient p(bitmap_spec());
        p.put(p.directory() + line.at, line.value);
        expect(p, line.finding);
    }
    // With in_use another size is no matter.
    Patient p(bitmap_spec(true));
    p.put(p.directory() + 8, 0x0000000200000003);
    BOOST_TEST(report_of(p).sound(), report_of(p).text());
}

BOOST_AUTO_TEST_CASE(the_bit_without_the_extension)
{
    Patient p(plain_spec());
    p.put(88, 1);
    expect_only(p, Finding::bitmaps_extension_missing);
}

BOOST_AUTO_TEST_SUITE_END()
