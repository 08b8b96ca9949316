// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// An image from anybody must not take time that has nothing to do with what is
// stored in it. What is counted is work, not seconds; where the old work had no
// end, the test had none.

#include <boost/test/unit_test.hpp>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/disk.h"
#include "core/structure/operations.h"
#include "tests/support/counting_store.h"
#include "tests/support/fault_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(costs)

namespace {

ImageSpec spec_of(std::uint32_t cluster_bits, std::uint64_t size)
{
    ImageSpec spec;
    spec.cluster_bits = cluster_bits;
    spec.size = size;
    return spec;
}

}  // namespace

// What is counted ends long before.
BOOST_AUTO_TEST_CASE(a_file_of_2_62_bytes_of_holes)
{
    BuiltImage built = build_image(spec_of(9, 1 << 20));
    built.image.size = std::uint64_t(1) << 62;
    MemoryStore store(built.image);
    auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    for (std::uint64_t at = 0; at < 1 << 20; at += 512) {  // more than one refcount block
        must(disk->write(GuestOffset(at), Buffer(512, 1), false));
        built.reference.write(GuestOffset(at), Buffer(512, 1));
    }
    must(disk->settle());
    must(disk->close());
    BOOST_TEST(clean_stop_verdict(store.image(), built.reference) == "");
}

// Neighbours of one kind, as many as there are clusters.
BOOST_AUTO_TEST_CASE(block_status_where_all_is_alike)
{
    ImageSpec spec = spec_of(9, 32 << 20);
    for (std::uint64_t cluster = 0; cluster < spec.size >> 9; cluster += 2)
        spec.clusters.emplace(cluster, Preset::zero);
    MemoryStore store(build_image(spec).image);
    auto disk = must(Disk::open(store, {}));
    std::uint64_t at = 0;
    unsigned requests = 0;
    for (; at < disk->size(); ++requests)
        for (const Extent &extent : must(disk->block_status(GuestOffset(at), disk->size() - at))) {
            BOOST_TEST((extent.hole && extent.zero));
            at += extent.length;
        }
    BOOST_TEST(at == spec.size);
    BOOST_TEST(requests >= 4u);
}

// Each was compared with each: a minute.
BOOST_AUTO_TEST_CASE(a_report_on_many_bitmaps_that_are_in_use)
{
    ImageSpec spec = spec_of(16, 1 << 20);
    for (unsigned i = 0; i < 8000; ++i) {
        BitmapSpec bitmap;
        bitmap.name = "b" + std::to_string(i);
        bitmap.in_use = true;
        spec.bitmaps.push_back(bitmap);
    }
    MemoryStore store(build_image(spec).image);
    auto disk = must(Disk::open(store, {}));
    const auto few = disk->report(false);
    BOOST_TEST(few.size() == 21u);
    BOOST_TEST(few.back().text == "and 7980 more bitmaps like these; -v tells of each");
    BOOST_TEST(disk->report(true).size() == 8000u);
}

// The server goes on, and refuses; nothing asserts that it began.
BOOST_AUTO_TEST_CASE(a_write_after_begin_writing_has_failed)
{
    BuiltImage built = build_image(spec_of(16, 1 << 20));
    MemoryStore memory(built.image);
    FaultPlan plan;
    FaultStore store(memory, plan);
    auto disk = must(Disk::open(store, {}));
    plan.arm({.kinds = Fault::flushes, .nth = 1});
    BOOST_REQUIRE(!disk->begin_writing());
    BOOST_TEST(plan.struck() == 1u);
    BOOST_TEST(!disk->write(GuestOffset(0), Buffer(512, 1), false));
    BOOST_TEST(!disk->trim(GuestOffset(0), 512, false));
    BOOST_TEST(!disk->zero(GuestOffset(0), 512, {}));
    Buffer bytes(512);
    must(disk->read(GuestOffset(0), bytes));
    disk.reset();
    BOOST_TEST(clean_stop_verdict(memory.image(), built.reference) == "");
}

// One line named them all: 64 MiB, if names are long.
BOOST_AUTO_TEST_CASE(a_report_on_many_bitmaps_that_are_out_of_date)
{
    ImageSpec spec = spec_of(16, 1 << 20);
    for (unsigned i = 0; i < 1000; ++i) {
        BitmapSpec bitmap;
        bitmap.name = "b" + std::to_string(i);
        spec.bitmaps.push_back(bitmap);
    }
    MemoryStore store(build_image(spec).image);
    must(store.write(offsetof(on_disk::Header, autoclear_features), Buffer(8)));
    auto disk = must(Disk::open(store, {}));
    const auto lines = disk->report(false);
    BOOST_REQUIRE(lines.size() == 1u);
    BOOST_TEST(lines[0].text.find("'b19' and 980 more; ") != std::string::npos, lines[0].text);
    BOOST_TEST(lines[0].text.size() < 1000u);
}

// For each new table all refcounts were gone through, and each waited for flushes
// of its own: with 65,000 bitmaps that was two hours of a disk.
BOOST_AUTO_TEST_CASE(many_bitmaps_become_valid_again)
{
    ImageSpec spec = spec_of(9, 1 << 20);
    spec.refcount_order = 6;
    for (unsigned i = 0; i < 4000; ++i) {
        BitmapSpec bitmap;
        bitmap.name = "b" + std::to_string(i);
        bitmap.in_use = true;
        spec.bitmaps.push_back(bitmap);
    }
    BuiltImage built = build_image(spec);
    CountingStore store(built.image);
    DiskOptions options;
    options.recover_all_dirty = true;
    options.cache_bytes = 1;  // the least that there is
    auto disk = must(Disk::open(store, options));
    store.forget();
    must(disk->begin_writing());
    BOOST_TEST(store.flushes < 400u);  // some for each refcount block
    BOOST_TEST(store.reads < 10u * 4000);
    must(disk->close());
    BOOST_TEST(must(check(store)).sound());
}

// Each step that enables a bitmap read the tables of all, to know whose its clusters are.
BOOST_AUTO_TEST_CASE(a_transaction_of_many_steps)
{
    constexpr unsigned bitmaps = 200;
    ImageSpec spec = spec_of(9, 1 << 20);
    std::vector<DiskStep> steps;
    for (unsigned i = 0; i < bitmaps; ++i) {
        BitmapSpec bitmap;
        bitmap.name = "b" + std::to_string(i);
        bitmap.enabled = false;
        bitmap.set = {{0, 1}};
        spec.bitmaps.push_back(bitmap);
        steps.push_back(BitmapStep(EnableBitmap{bitmap.name}));
        steps.push_back(BitmapStep(DisableBitmap{bitmap.name}));
    }
    CountingStore store(build_image(spec).image);
    auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    store.forget();
    must(disk->change_together(steps));
    BOOST_TEST(store.reads < 10u * bitmaps);
    BOOST_TEST(store.writes == 0u);
    must(disk->close());
}

// A shell has not so many lines, and whoever reads them even less.
BOOST_AUTO_TEST_CASE(warnings_about_many_bitmaps_are_few)
{
    static std::size_t warnings;
    warnings = 0;
    ImageSpec spec = spec_of(9, 1 << 20);
    spec.refcount_order = 6;
    for (unsigned i = 0; i < 500; ++i) {
        BitmapSpec bitmap;
        bitmap.name = "b" + std::to_string(i);
        spec.bitmaps.push_back(bitmap);
    }
    BuiltImage built = build_image(spec);
    CountingStore store(built.image);
    // They all name the table of the first.
    for (const BitmapDirectoryEntry &entry : built.bitmaps) {
        const on_disk::be64 word(built.bitmaps[0].bitmap_table_offset.value);
        const std::uint64_t directory =
            load_be64(&built.area.find(ExtensionType::bitmaps)->data[16]);
        must(store.write(directory + entry.position, {word.data(), sizeof word}));
    }
    DiskOptions options;
    options.mends_bitmaps = true;
    auto disk = must(Disk::open(store, options));
    set_log_sink(
        [](LogLevel level, const std::string &) { warnings += level == LogLevel::warning; });
    must(disk->restructure([](Image &image) { return drop_all_bitmaps(image); }));
    set_log_sink(nullptr);
    BOOST_TEST(warnings == FewWarnings::most + 1);
    must(disk->close());
}

BOOST_AUTO_TEST_SUITE_END()
