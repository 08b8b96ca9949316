// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the power fails, or the process is killed, at any moment? The engine
// runs once over a CrashStore; then states of the disk are made for moments of
// that run, and each is asked the four questions: it opens and check finds
// leaks at worst; each flushed byte is there, each other old or new; each
// enabled bitmap covers what has changed (with bitmap-sync=on-close, or is
// marked in_use); writing on works, up to a second crash (and a third).

#include <cstdio>

#include "tests/crash/lives.h"
#include "tests/support/qemu_img.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(crash)

namespace {

// For the log.
struct Figures {
    std::uint64_t states = 0, changes = 0;
};

void run(std::uint64_t seed, const Kind &kind, Figures &figures)
{
    SEEDED(seed);
    Lives lives(seed, kind);
    BOOST_TEST_INFO_SCOPE(lives.text());
    lives.run(3);
    figures.states += lives.states();
    figures.changes += lives.changes();
}

// Of each seed, on average: fewer would be too few to find much.
constexpr std::uint64_t states_min = 200;

void run_all(unsigned smoke, const Kind &kind)
{
    if (kind.made && !have_qemu_img()) {
        BOOST_TEST_MESSAGE("qemu-img is missing");
        return;
    }
    Figures figures;
    for (const std::uint64_t seed : seeds(smoke))
        run(seed, kind, figures);
    std::printf("%s: %llu crash states, %llu structural changes\n",
                boost::unit_test::framework::current_test_case().full_name().c_str(),
                static_cast<unsigned long long>(figures.states),
                static_cast<unsigned long long>(figures.changes));
    if (!seeds_are_fixed())
        return;
    BOOST_TEST((figures.states >= states_min * smoke || every() > 1));
    BOOST_TEST((figures.changes > 0u || !(kind.restructured || kind.bitmaps_change)));
}

}  // namespace

BOOST_AUTO_TEST_CASE(any_image) { run_all(6, {}); }

BOOST_AUTO_TEST_CASE(small_clusters) { run_all(4, {.cluster_bits = 9, .length_max = 20000}); }

BOOST_AUTO_TEST_CASE(middle_clusters) { run_all(4, {.cluster_bits = 12, .length_max = 40000}); }

BOOST_AUTO_TEST_CASE(default_clusters) { run_all(4, {.cluster_bits = 16}); }

BOOST_AUTO_TEST_CASE(largest_clusters)
{
    run_all(2, {.cluster_bits = 21, .steps = 25, .length_max = 5000000});
}

BOOST_AUTO_TEST_CASE(a_refcount_table_that_grows)
{
    run_all(3, {.cluster_bits = 9, .length_max = 20000, .table_grows = true});
}

// W8. The first write goes there.
BOOST_AUTO_TEST_CASE(a_file_that_ends_inside_a_sector)
{
    run_all(20,
            {.cluster_bits = 12, .steps = 20, .length_max = 40000, .ends_inside_a_sector = true});
}

BOOST_AUTO_TEST_CASE(threads) { run_all(5, {.threads = 3, .steps = 40}); }

// Bits that are armed, cooled and touched again, of data that are in place.
BOOST_AUTO_TEST_CASE(bits_that_come_and_go)
{
    run_all(3, {.cluster_bits = 12, .steps = 150, .length_max = 700, .small_regions = true});
    run_all(2, {.cluster_bits = 9, .steps = 150, .length_max = 700, .small_regions = true});
}

BOOST_AUTO_TEST_CASE(marks_that_come_and_go)
{
    run_all(4, {.cluster_bits = 12,
                .steps = 40,
                .length_max = 700,
                .on_close = true,
                .small_regions = true});
}

BOOST_AUTO_TEST_CASE(bits_under_threads)
{
    run_all(
        4,
        {.cluster_bits = 12, .threads = 4, .steps = 80, .length_max = 700, .small_regions = true});
}

BOOST_AUTO_TEST_CASE(a_store_that_gets_full) { run_all(4, {.limited = true}); }

BOOST_AUTO_TEST_CASE(a_flush_that_fails) { run_all(6, {.failing_flush = true}); }

BOOST_AUTO_TEST_CASE(writes_that_fail)
{
    run_all(4, {.failing_writes = true});
    run_all(10, {.cluster_bits = 12,
                 .failing_writes = true,
                 .length_max = 700,
                 .on_close = true,
                 .small_regions = true});
}

// B7, where the table of a bitmap cannot be written at once.
BOOST_AUTO_TEST_CASE(writes_that_fail_without_room)
{
    run_all(12, {.cluster_bits = 13,
                 .steps = 12,
                 .failing_writes = true,
                 .length_max = 700,
                 .fixed = true,
                 .no_room = true});
}

// B7, where no cluster is left for the last bits: bitmaps are given up, and taken
// back when something was trimmed.
BOOST_AUTO_TEST_CASE(bits_that_have_no_room)
{
    heard.times_given_up = heard.times_taken_back = 0;
    run_all(6, {.cluster_bits = 12, .length_max = 9000, .fixed = true, .no_room_for_bits = true});
    BOOST_TEST((heard.times_given_up > 0u || !seeds_are_fixed()));
    BOOST_TEST((heard.times_taken_back > 0u || !seeds_are_fixed()));
}

BOOST_AUTO_TEST_CASE(a_store_that_cannot_grow) { run_all(3, {.fixed = true}); }

BOOST_AUTO_TEST_CASE(granularities_far_apart)
{
    run_all(3, {.cluster_bits = 12, .granularities = true});
}

BOOST_AUTO_TEST_CASE(bitmaps_of_many_pages)
{
    run_all(1, {.cluster_bits = 12, .granularities = true, .size = 40 << 20});
}

BOOST_AUTO_TEST_CASE(resized_and_reverted)
{
    run_all(2, {.cluster_bits = 12, .length_max = 40000, .restructured = true});
}

BOOST_AUTO_TEST_CASE(resized_and_reverted_of_any_kind)
{
    run_all(3, {.steps = 40, .restructured = true});
}

BOOST_AUTO_TEST_CASE(resized_and_reverted_without_room)
{
    run_all(2, {.cluster_bits = 9, .fixed = true, .restructured = true});
}

BOOST_AUTO_TEST_CASE(snapshots_while_threads_write)
{
    run_all(3, {.cluster_bits = 12, .threads = 3, .steps = 40, .restructured = true});
}

// H1, B2, beside changes that nothing has flushed.
BOOST_AUTO_TEST_CASE(bitmaps_that_change_on_a_disk_in_use)
{
    run_all(3, {.bitmaps_change = true});
    run_all(3, {.cluster_bits = 12,
                .steps = 80,
                .length_max = 700,
                .small_regions = true,
                .bitmaps_change = true});
    run_all(2, {.cluster_bits = 12,
                .threads = 3,
                .steps = 60,
                .length_max = 700,
                .small_regions = true,
                .bitmaps_change = true});
    run_all(2, {.cluster_bits = 9, .fixed = true, .bitmaps_change = true});
}

BOOST_AUTO_TEST_CASE(compressed_clusters) { run_all(3, {.made = QemuMade::compressed}); }

BOOST_AUTO_TEST_CASE(subclusters) { run_all(3, {.made = QemuMade::subclusters}); }

BOOST_AUTO_TEST_CASE(a_backing_file) { run_all(3, {.made = QemuMade::backing}); }

BOOST_AUTO_TEST_CASE(resized_and_reverted_of_what_qemu_made)
{
    run_all(1, {.steps = 30, .restructured = true, .made = QemuMade::compressed});
    run_all(1, {.steps = 25, .restructured = true, .made = QemuMade::subclusters});
    run_all(1, {.steps = 25, .restructured = true, .made = QemuMade::backing});
}

BOOST_AUTO_TEST_SUITE_END()
