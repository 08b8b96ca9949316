// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk against flat bytes and flat bitmaps, where the disk gets other sizes
// among random operations.

#include <atomic>
#include <thread>

#include "core/check/check.h"
#include "core/disk.h"
#include "core/image/image.h"
#include "tests/support/disk_driver.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/qemu_img.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(resize_model)

namespace {

// Sizes at which something changes, and any.
std::uint64_t draw_size(Random &random, std::uint64_t now, const Geometry &geometry,
                        std::uint64_t size_max)
{
    std::uint64_t size = random.between(1, size_max);
    switch (random.below(5)) {
    case 0: size = now + random.below(2 * geometry.cluster_size()); break;
    case 1: size = now - std::min(now, random.below(2 * geometry.cluster_size())); break;
    case 2: size = align_up(size, geometry.cluster_size()); break;
    case 3: size = align_up(size, geometry.l2_reach()); break;
    default: break;
    }
    return std::clamp<std::uint64_t>(size, 1, 2 * size_max);
}

class Bench {
public:
    Bench(std::uint64_t seed, std::uint32_t cluster_bits, std::uint64_t size_max)
        : random_(seed),
          size_max_(std::max(size_max, std::uint64_t(6) << cluster_bits)),
          spec_(random_spec(random_, cluster_bits, size_max_)),
          built_(build_image(spec_)),
          store_(built_.image, options())
    {
        disk_ = must(Disk::open(store_, {}));
        BOOST_REQUIRE_MESSAGE(!disk_->why_read_only(), words(disk_->why_read_only()));
        must(disk_->begin_writing());
    }

    const ImageSpec &spec() const { return spec_; }
    Random &random() { return random_; }
    ReferenceDisk &reference() { return built_.reference; }
    Disk &disk() { return *disk_; }

    void write(int steps)
    {
        DiskDriver driver(*disk_, reference(), random_, generation_, {.accepted = {}});
        for (int step = 0; step < steps; ++step)
            driver.step({0, reference().size()});
    }

    void resize()
    {
        const std::uint64_t size =
            draw_size(random_, reference().size(), spec_.geometry(), size_max_);
        BOOST_TEST_INFO_SCOPE("from " << reference().size() << " to " << size);
        const Result<void> resized = disk_->resize(size);
        if (is_refused(size)) {
            BOOST_REQUIRE(!resized);
            BOOST_REQUIRE_MESSAGE(resized.error().code == Errc::unsupported, words(resized));
            return;
        }
        must(resized);
        reference().resize(align_up(size, 512));
        BOOST_REQUIRE_EQUAL(disk_->size(), reference().size());
        judge("after the resize");
        // Once more it changes nothing.
        const StoreImage before = store_.image();
        must(disk_->resize(size));
        BOOST_REQUIRE(store_.image().bytes == before.bytes);
    }

    void read_all()
    {
        DiskDriver driver(*disk_, reference(), random_, generation_, {.accepted = {}});
        for (std::uint64_t at = 0; at < reference().size(); at += 1 << 20)
            driver.read({at, std::min<std::uint64_t>(reference().size(), at + (1 << 20))});
        driver.block_status({0, reference().size()});
    }

    void judge(const std::string &when)
    {
        const StoreImage image = store_.image();
        const std::string verdict = clean_stop_verdict(image, reference());
        BOOST_REQUIRE_MESSAGE(verdict.empty(), when << ": " << verdict << keep(image, "resized"));
    }

    void close(bool ask_qemu)
    {
        must(disk_->close());
        judge("after the end");
        const StoreImage image = store_.image();
        const std::string verdict =
            ask_qemu && spec_.qemu_opens() ? qemu_verdict(image, false) : std::string();
        BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict << keep(image, "judged_by_qemu"));
    }

private:
    StoreOptions options()
    {
        StoreOptions options;
        options.growth_step = random_.pick<std::uint64_t>({1, 512, 65536, 1 << 20});
        options.discarded = random_.pick({Discarded::zero, Discarded::kept, Discarded::garbage});
        return options;
    }

    bool is_refused(std::uint64_t size) const
    {
        return spec_.version < 3 && built_.area.header.nb_snapshots != 0 &&
               align_up(size, 512) != built_.reference.size();
    }

    Random random_;
    const std::uint64_t size_max_;
    const ImageSpec spec_;
    BuiltImage built_;
    MemoryStore store_;
    std::unique_ptr<Disk> disk_;
    std::atomic<std::uint32_t> generation_{1};
};

void lives(std::uint64_t seed, std::uint32_t cluster_bits, std::uint64_t size_max, int resizes)
{
    SEEDED(seed);
    Bench bench(seed, cluster_bits, size_max);
    BOOST_TEST_INFO_SCOPE(bench.spec().text());
    for (int i = 0; i < resizes; ++i) {
        if (!bench.random().one_in(4))
            bench.write(static_cast<int>(bench.random().below(40)));
        bench.resize();
        if (bench.random().one_in(3))
            bench.read_all();
    }
    bench.write(20);
    bench.read_all();
    bench.close(seed % 4 == 0);
}

}  // namespace

BOOST_AUTO_TEST_CASE(any_size_on_any_image, *one_thread())
{
    for (const std::uint64_t seed : seeds(60))
        lives(seed, 0, 3 << 20, 6);
}

BOOST_AUTO_TEST_CASE(any_size_with_every_cluster_size, *one_thread())
{
    for (const std::uint64_t seed : seeds(26))
        lives(seed, static_cast<std::uint32_t>(9 + seed % 13), 2 << 20, 6);
}

// Many L2 tables, bitmap tables of many entries.
BOOST_AUTO_TEST_CASE(small_clusters, *one_thread())
{
    for (const std::uint64_t seed : seeds(20))
        lives(seed, 9, 12 << 20, 10);
}

// Threads at stripes of their own, in a part of the disk that is always there,
// while it gets other sizes.
BOOST_AUTO_TEST_CASE(requests_in_flight)
{
    for (const std::uint64_t seed : seeds(12)) {
        SEEDED(seed);
        Bench bench(seed, 0, 1 << 20);
        BOOST_TEST_INFO_SCOPE(bench.spec().text());
        if (bench.spec().version < 3)
            continue;
        constexpr unsigned threads = 3;
        constexpr std::uint64_t stripe = 16384;
        const std::uint64_t area =
            std::min<std::uint64_t>(bench.reference().size(), threads * stripe);
        std::vector<ReferenceDisk> references(threads, bench.reference());
        std::vector<std::string> faults(threads);
        std::atomic<std::uint32_t> generation{1};
        std::vector<std::thread> workers;
        for (unsigned t = 0; t < threads; ++t)
            workers.emplace_back([&, t, random = Random(bench.random()())]() mutable {
                try {
                    DiskDriver driver(bench.disk(), references[t], random, generation,
                                      {.accepted = {}});
                    const Range mine{std::min(area, t * stripe), std::min(area, (t + 1) * stripe)};
                    for (int step = 0; step < 200 && !mine.empty(); ++step)
                        driver.step(mine);
                } catch (const std::exception &e) {
                    faults[t] = e.what();
                }
            });
        std::uint64_t size = 0;
        for (int i = 0; i < 20; ++i) {
            // Above the area nobody has anything, so that it does not matter when.
            size = align_up(area + bench.random().below(2 << 20), 512);
            must(bench.disk().resize(size));
            if (i == 0)  // all behind the area is dropped once, and does not come back
                must(bench.disk().resize(align_up(area, 512)));
        }
        for (auto &worker : workers)
            worker.join();
        for (const std::string &fault : faults)
            BOOST_REQUIRE_MESSAGE(fault.empty(), fault);
        must(bench.disk().resize(size));
        ReferenceDisk &all = bench.reference();
        for (unsigned t = 0; t < threads; ++t) {
            const Range mine{std::min(area, t * stripe), std::min(area, (t + 1) * stripe)};
            if (!mine.empty())
                all.preset(GuestOffset(mine.begin),
                           references[t].read(GuestOffset(mine.begin), mine.length()));
            for (auto &[name, bitmap] : all.bitmaps())
                bitmap.bits.or_with(references[t].bitmaps().at(name).bits);
        }
        all.resize(align_up(area, 512));
        all.resize(size);
        bench.close(false);
    }
}

// A request behind an end that is nearer than the client knows.
BOOST_AUTO_TEST_CASE(requests_behind_the_end_are_refused)
{
    const BuiltImage built = build_image({});
    MemoryStore store(built.image, {});
    auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    must(disk->resize(4096));
    Buffer bytes(512);
    for (const Result<void> &refused :
         {disk->read(GuestOffset(4096), bytes), disk->write(GuestOffset(3585), bytes, false),
          disk->zero(GuestOffset(4096), 512, {}), disk->trim(GuestOffset(4096), 512, false)}) {
        BOOST_REQUIRE(!refused);
        BOOST_TEST(refused.error().what.find("the disk at 0x1000") != std::string::npos);
    }
    must(disk->write(GuestOffset(3584), bytes, false));
    must(disk->close());
}

// A crash may lose the length of the file and keep the refcounts of what was
// behind it.
BOOST_AUTO_TEST_CASE(clusters_counted_behind_the_end_are_not_taken)
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.bitmaps = {{.name = "b0", .granularity_bits = 9, .set = {{0, 2048}}, .extra_data = {}}};
    BuiltImage built = build_image(spec);
    ImageView view(built.image);
    const HostOffset table = must(ImageReader::open(view)).area().header.refcount_table_offset;
    Buffer entry(8);
    built.image.bytes.read(table.value, entry);
    const std::uint64_t first = built.image.size >> spec.cluster_bits;
    const Buffer one = {0, 1};
    for (const std::uint64_t cluster : {first + 1, first + 3})
        built.image.bytes.write(load_be64(entry.data()) + 2 * cluster, one);

    MemoryStore store(built.image, {});
    auto disk = must(Disk::open(store, {}));
    must(disk->resize(64 << 20));
    must(disk->close());
    const StoreImage image = store.image();
    ImageView after(image);
    const CheckReport report = must(check(after));
    BOOST_TEST(report.leaks_at_worst(), report.text());
    BOOST_TEST(!report.sound());
    const ImageReader reader = must(ImageReader::open(after));
    BOOST_TEST(must(reader.refcount(HostCluster(first + 1))) == 1u);
    BOOST_TEST(must(reader.refcount(HostCluster(first + 3))) == 1u);
}

BOOST_AUTO_TEST_SUITE_END()
