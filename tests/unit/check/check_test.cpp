// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A sound image, one thing made wrong, and what check says. That it says the
// same as qemu-img is the business of interop/test-check-agrees.py.

#include "tests/unit/check/checked.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(check_)

BOOST_AUTO_TEST_CASE(sound_images_are_sound)
{
    ImageSpec v2 = plain_spec();
    v2.version = 2;
    v2.clusters = {{0, Preset::data}, {600, Preset::data}};
    for (const ImageSpec &spec :
         {plain_spec(), snapshot_spec(), bitmap_spec(), bitmap_spec(true), v2}) {
        Patient patient(spec);
        const CheckReport report = report_of(patient);
        BOOST_TEST(report.sound(), report.text());
        BOOST_TEST(report.findings.empty());
        BOOST_TEST(report.text().ends_with("0 corruptions, 0 leaked clusters\n"));
    }
}

// --- Refcounts.

BOOST_AUTO_TEST_CASE(clusters_that_nobody_names_leak)
{
    Patient p(plain_spec());
    const std::uint64_t first = p.new_cluster();
    const std::uint64_t second = p.new_cluster();
    p.set_refcount(first, 1);
    p.set_refcount(second, 1);
    const CheckReport report = report_of(p);
    BOOST_TEST(report.leaks == 2u);
    BOOST_TEST(report.corruptions == 0u);
    BOOST_TEST(report.leaks_at_worst());
    BOOST_TEST(!report.sound());
    // Side by side they are one finding.
    BOOST_REQUIRE(report.findings.size() == 1u);
    BOOST_TEST(report.findings[0].count == 2u);
    BOOST_TEST(report.findings[0].place ==
               "host cluster " + hex(first) + ": refcount 1, used 0 times");
}

BOOST_AUTO_TEST_CASE(a_refcount_that_is_too_high_is_one_leak)
{
    Patient p(plain_spec());
    p.set_refcount(p.header().refcount_table_offset.value, 5);
    expect_only(p, Finding::refcount_too_high);
}

BOOST_AUTO_TEST_CASE(a_refcount_that_is_too_low_is_corruption)
{
    Patient p(plain_spec());
    p.set_refcount(p.header().refcount_table_offset.value, 0);
    expect_only(p, Finding::refcount_too_low);
}

// As qemu-img: nothing of it can be used before the file has grown.
BOOST_AUTO_TEST_CASE(refcounts_behind_the_end_do_not_matter)
{
    Patient p(plain_spec());
    p.set_refcount(align_up(p.store().size(), p.cluster_size()), 1);
    p.set_refcount(align_up(p.store().size(), p.cluster_size()) + 5 * p.cluster_size(), 3);
    BOOST_TEST(report_of(p).sound());
}

BOOST_AUTO_TEST_CASE(a_cluster_named_twice_needs_refcount_2)
{
    Patient p(plain_spec());
    p.put(p.l2(20), p.host(0));
    expect(p, Finding::refcount_too_low);
    p.set_refcount(p.host(0), 2);
    expect_only(p, Finding::copied_flag_wrong);  // the first name still has bit 63
    p.put(p.l2(0), p.host(0));
    BOOST_TEST(report_of(p).sound());
}

BOOST_AUTO_TEST_CASE(bit_63_and_the_refcount)
{
    Patient p(plain_spec());
    p.put(p.l2(0), p.word(p.l2(0)) & ~copied);
    p.put(p.l2(5), p.word(p.l2(5)) & ~copied);
    p.put(p.l1(1), p.word(p.l1(1)) & ~copied);
    expect_only(p, Finding::copied_flag_wrong, 3);
}

BOOST_AUTO_TEST_CASE(bit_63_does_not_count_in_snapshots)
{
    Patient p(snapshot_spec());
    const std::uint64_t l1 = p.word(p.snapshots());
    for (int i = 0; i < 2; ++i) {
        p.put(l1, p.word(l1) ^ copied);
        BOOST_TEST(report_of(p).sound());
    }
}

BOOST_AUTO_TEST_CASE(the_refcount_structure)
{
    {
        Patient p(plain_spec());
        p.put(p.header().refcount_table_offset.value, p.refcount_block() | 1);
        expect(p, Finding::refcount_table_entry_reserved_bits);
    }
    {
        Patient p(plain_spec());
        p.put(p.header().refcount_table_offset.value, p.refcount_block() + 512);
        expect(p, Finding::refcount_block_unaligned);
    }
    {
        Patient p(plain_spec());
        p.put(p.header().refcount_table_offset.value + 8, p.store().size() + (4 << 20));
        expect_only(p, Finding::refcount_block_past_end);
    }
    {
        Patient p(plain_spec());
        p.put(p.header().refcount_table_offset.value, 0);
        expect(p, Finding::refcount_too_low);
    }
    {
        Patient p(plain_spec());
        p.put(48, std::uint64_t(1) << 40);
        expect(p, Finding::refcount_table_past_end);
    }
}

// --- As a whole.

BOOST_AUTO_TEST_CASE(what_cannot_be_checked_is_an_error)
{
    MemoryStore empty(0);
    BOOST_TEST(!check(empty));
    MemoryStore zeros(65536);
    const auto report = check(zeros);
    BOOST_REQUIRE(!report);
    BOOST_TEST((report.error().code == Errc::invalid));
    Patient p(plain_spec());
    p.put(16, 0xffffffff);  // cluster_bits
    BOOST_TEST(!check(p.store()));
}

BOOST_AUTO_TEST_CASE(a_read_that_fails_is_an_error_and_no_finding)
{
    for (const ImageSpec &spec : {snapshot_spec(), bitmap_spec()}) {
        MemoryStore memory(build_image(spec).image);
        std::uint64_t failed = 0;
        for (std::uint64_t nth = 1;; ++nth) {
            FaultPlan plan(Fault{.kinds = Fault::reads, .nth = nth});
            FaultStore store(memory, plan);
            const auto report = check(store);
            if (plan.struck() == 0) {
                BOOST_TEST(report->sound());
                break;
            }
            BOOST_REQUIRE(!report);
            BOOST_TEST((report.error().code == Errc::io));
            ++failed;
        }
        BOOST_TEST(failed > 5u);
    }
}

BOOST_AUTO_TEST_CASE(the_report_is_bounded)
{
    Patient p(plain_spec());
    for (std::uint64_t i = 10; i < 500; ++i)
        p.put(p.l2(i), 2);
    const CheckReport report = report_of(p);
    BOOST_TEST(report.corruptions == 490u);
    BOOST_TEST(report.findings.size() == CheckReport::findings_max);
}

BOOST_AUTO_TEST_CASE(every_truncation_ends_in_an_answer)
{
    const BuiltImage built = build_image(bitmap_spec());
    for (std::uint64_t size = 0; size < built.image.size; size += 100) {
        StoreImage image = built.image;
        image.size = size;
        image.bytes.zero(size, built.image.size - size);
        MemoryStore store(image);
        BOOST_TEST(text_of(check(store)) != "");
    }
}

// Words of the metadata changed at random: an answer, in time, and no crash.
BOOST_AUTO_TEST_CASE(random_damage_ends_in_an_answer)
{
    for (const std::uint64_t seed : seeds(100)) {
        SEEDED(seed);
        Random random(seed);
        const StoreImage image = build_image(random_spec(random, 0, 1 << 20)).image;
        std::vector<std::uint64_t> places;
        image.bytes.for_each_page([&](std::uint64_t offset, Bytes bytes) {
            for (std::size_t i = 0; i < bytes.size(); i += 8)
                if (!all_zero(sub(bytes, i, 8)))
                    places.push_back(offset + i);
        });
        for (int round = 0; round < 20; ++round) {
            StoreImage damaged = image;
            for (std::uint64_t n = random.between(1, 4); n > 0; --n) {
                Buffer word = damaged.bytes.copy(random.pick(places), 8);
                const std::uint64_t at =
                    random.coin() ? random.pick(places) : random.below(112) & ~7u;
                word[random.below(8)] ^= static_cast<std::uint8_t>(1u << random.below(8));
                damaged.bytes.write(at, word);
            }
            MemoryStore store(damaged);
            BOOST_TEST(text_of(check(store)) != "");
        }
    }
}

// A file of 2^48 bytes with next to nothing in it.
BOOST_AUTO_TEST_CASE(a_sparse_file_costs_what_is_in_it)
{
    ImageSpec spec = plain_spec();
    StoreImage image = build_image(spec).image;
    image.size = std::uint64_t(1) << 48;
    MemoryStore store(image);
    const auto report = check(store);
    BOOST_REQUIRE(report);
    BOOST_TEST(report->sound(), report->text());
}

// Every L1 entry names the same table: it is read once.
BOOST_AUTO_TEST_CASE(a_table_that_is_named_a_hundred_thousand_times)
{
    ImageSpec spec = plain_spec();
    spec.size = std::uint64_t(100000) << 21;
    Patient p(spec);
    const std::uint64_t l2_table = p.word(p.l1(0)) & entry_offset_mask;
    for (std::uint64_t i = 0; i < p.header().l1_size; ++i)
        p.put(p.l1(i), l2_table);
    expect(p, Finding::refcount_too_low);
    BOOST_TEST(report_of(p).text().find("refcount 1, used 100000 times") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(thousands_of_checks_a_second)
{
    Patient p(bitmap_spec());
    const auto begin = std::chrono::steady_clock::now();
    constexpr int rounds = 1000;
    for (int i = 0; i < rounds; ++i)
        BOOST_REQUIRE(check(p.store()));
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
    BOOST_TEST_MESSAGE(took.count() / rounds << " us for one");
    BOOST_TEST(took.count() / rounds < 20000);  // also with sanitizers on a busy machine
}

BOOST_AUTO_TEST_CASE(what_is_not_wrong_and_still_to_be_known_is_a_note)
{
    Patient sound(bitmap_spec());
    BOOST_TEST(report_of(sound).notes.empty());
    Patient in_use(bitmap_spec(true));
    BOOST_TEST(has_note(in_use, "bitmap 'b0' is inconsistent (in_use)"));
    Patient marked(plain_spec());
    marked.put_byte(79, 3);
    BOOST_TEST(has_note(marked, "the image was not closed cleanly (dirty bit)"));
    BOOST_TEST(has_note(marked, "the image is marked as corrupt"));
}

BOOST_AUTO_TEST_SUITE_END()
