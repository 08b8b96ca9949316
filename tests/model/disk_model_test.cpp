// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk against flat bytes and flat bitmaps, under random operations. (Of several threads:
// disk_threads_test.cpp.)

#include "tests/model/disk_bench.h"

#include "tests/support/payload.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(disk_model)

namespace {

void random_lives(std::uint64_t seed, std::uint32_t cluster_bits, bool limited, int steps)
{
    SEEDED(seed);
    Random random(seed);
    Bench bench(random, cluster_bits, limited, 0);
    BOOST_TEST_INFO_SCOPE(bench.spec().text());
    std::atomic<std::uint32_t> generation{1};
    const int lives = 3;
    for (int life = 0; life < lives; ++life) {
        bench.open();
        if (!bench.has_disk())
            continue;
        DiskDriver driver(bench.disk(), bench.reference(), random, generation,
                          bench.driver_options());
        const Range all{0, bench.reference().size()};
        for (int step = 0; step < steps / lives; ++step)
            driver.step(all);
        if (driver.settle()) {
            const std::string verdict =
                clean_stop_verdict(bench.now(), bench.reference(), bench.bitmaps());
            BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict << keep(bench.now(), "after_settle"));
        }
        for (std::uint64_t at = 0; at < all.end; at += 1 << 20)
            driver.read({at, std::min(all.end, at + (1 << 20))});
        if (!bench.close())
            return;
    }
    if (seed % 5 == 0 && bench.spec().qemu_opens()) {
        const std::string verdict = qemu_verdict(bench.image(), false);
        BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict << keep(bench.image(), "judged_by_qemu"));
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(random_steps_on_any_image, *one_thread())
{
    for (const std::uint64_t seed : seeds(60))
        random_lives(seed, 0, false, 600);
}

BOOST_AUTO_TEST_CASE(random_steps_with_every_cluster_size, *one_thread())
{
    for (const std::uint64_t seed : seeds(26))
        random_lives(seed, static_cast<std::uint32_t>(9 + seed % 13), false, 300);
}

BOOST_AUTO_TEST_CASE(random_steps_until_the_store_is_full, *one_thread())
{
    for (const std::uint64_t seed : seeds(40))
        random_lives(seed, 0, true, 600);
}

// MemoryStore ends the test if it is written to.
BOOST_AUTO_TEST_CASE(a_store_that_cannot_be_written_is_not_touched, *one_thread())
{
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        const ImageSpec spec = random_spec(random, 0, 1 << 20);
        BOOST_TEST_INFO_SCOPE(spec.text());
        BuiltImage built = build_image(spec);
        MemoryStore store(built.image, {.read_only = true});
        auto disk = must(Disk::open(store, {}));
        BOOST_REQUIRE(disk->why_read_only());
        must(disk->begin_writing());
        std::atomic<std::uint32_t> generation{1};
        DiskDriver driver(*disk, built.reference, random, generation, {.accepted = {}});
        driver.read({0, disk->size()});
        driver.block_status({0, disk->size()});
        for (const Result<void> &refused :
             {disk->write(GuestOffset(0), Buffer(512), false), disk->zero(GuestOffset(0), 512, {}),
              disk->trim(GuestOffset(0), 512, false)}) {
            BOOST_REQUIRE(!refused);
            BOOST_REQUIRE(refused.error().code == Errc::read_only);
        }
        must(disk->flush());
        must(disk->settle());
        must(disk->close());
        BOOST_REQUIRE(store.image().bytes == built.image.bytes);
        BOOST_REQUIRE_EQUAL(store.image().size, built.image.size);
    }
}

BOOST_AUTO_TEST_CASE(a_disk_of_8T_is_written_at_its_end)
{
    ImageSpec spec;
    spec.size = std::uint64_t(8) << 40;
    spec.bitmaps = {{.name = "b0", .granularity_bits = 20, .set = {}, .extra_data = {}}};
    const BuiltImage built = build_image(spec);
    MemoryStore store(built.image, {.growth_step = 1 << 20});
    auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    const GuestOffset offset(spec.size - 5000);
    const Buffer data = payload(offset, 5000, 7);
    must(disk->write(offset, data, false));
    must(disk->close());

    const StoreImage image = store.image();
    BOOST_TEST(image.size < built.image.size + (1 << 20));
    ImageView view(image);
    const CheckReport report = must(check(view));
    BOOST_TEST(report.sound(), report.text());
    const ImageReader reader = must(ImageReader::open(view));
    Buffer found(5000);
    must(reader.read(offset, found));
    BOOST_TEST(payload_difference(offset, data, found) == "");
    const auto bitmaps = must(reader.bitmaps());
    BOOST_TEST(bitmaps.at(0).bits.count() == 1u);
    BOOST_TEST(bitmaps.at(0).bits.test((std::uint64_t(8) << 20) - 1));
}

BOOST_AUTO_TEST_SUITE_END()
