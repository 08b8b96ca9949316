// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk against flat bytes and flat bitmaps, under random operations.

#include "core/disk.h"

#include <thread>

#include "core/base/log.h"
#include "core/check/check.h"
#include "tests/support/disk_driver.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/qemu_img.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(disk_model)

namespace {

constexpr std::uint64_t size_max = 6 << 20;

// An image, the same as a model, and a store with drawn properties.
class Bench {
public:
    Bench(Random &random, std::uint32_t cluster_bits, bool limited, std::uint64_t stirred)
        : random_(random), spec_(spec_of(random, cluster_bits)), limited_(limited), stirred_(stirred),
          built_(build_image(spec_))
    {
        image_ = built_.image;
    }

    const ImageSpec &spec() const { return spec_; }
    ReferenceDisk &reference() { return built_.reference; }
    const StoreImage &image() const { return image_; }
    Disk &disk() { return *disk_; }
    bool has_disk() const { return disk_ != nullptr; }
    DiskDriver::Options driver_options() const
    {
        DiskDriver::Options options;
        if (limited_)
            options.accepted = {Errc::no_space};
        return options;
    }
    Bitmaps bitmaps() const { return limited_ ? Bitmaps::superset : Bitmaps::exact; }

    // A life of the engine begins.
    void open()
    {
        StoreOptions options;
        options.can_flush = !random_.one_in(10);
        options.growth_step = random_.pick<std::uint64_t>({1, 512, 65536, 1 << 20});
        options.discarded = random_.pick({Discarded::zero, Discarded::kept, Discarded::garbage});
        if (limited_) {
            options.can_grow = random_.coin();
            options.size_limit = image_.size + random_.below(2 << 20);
            if (!options.can_grow)
                image_.size = options.size_limit;
        }
        options.stirred = stirred_;
        options.durable_alone = random_.coin();
        size_before_ = image_.size;
        store_ = std::make_unique<MemoryStore>(image_, options);
        DiskOptions disk_options;
        if (random_.coin())
            disk_options.bitmap_sync = random_.coin() && options.can_flush ? BitmapSync::durable : BitmapSync::on_close;
        disk_options.region_bytes = random_.pick<std::uint64_t>({512, 65536, 1 << 20, 16 << 20});
        if (random_.coin())
            disk_options.cache_bytes = random_.pick<std::uint64_t>({1, 65536, 1 << 20});
        if (spec_.version >= 3 && random_.one_in(3))
            want_bitmap(disk_options);
        disk_ = must(Disk::open(*store_, disk_options));
        BOOST_REQUIRE_MESSAGE(!disk_->why_read_only(), disk_->why_read_only()->what);
        BOOST_REQUIRE_EQUAL(disk_->size(), reference().size());
        const Result<void> begun = disk_->begin_writing();
        if (!begun) {
            BOOST_REQUIRE_MESSAGE(limited_ && begun.error().code == Errc::no_space, words(begun));
            forget_wanted(disk_options);
            disk_.reset();
        }
    }

    // Ends it as a clean stop does. False: it could not for lack of room, and
    // what it leaves leaks.
    bool close()
    {
        const Result<void> closed = disk_->close();
        disk_.reset();
        image_ = store_->image();
        if (limited_ && !closed && closed.error().code == Errc::no_space)
            return expect_in_use(), false;
        must(closed);
        const std::string verdict = clean_stop_verdict(image_, reference(), bitmaps());
        BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict << keep(image_, "after_close"));
        check_length();
        return true;
    }

    StoreImage now() const { return store_->image(); }

private:
    static ImageSpec spec_of(Random &random, std::uint32_t cluster_bits)
    {
        ImageSpec spec = random_spec(random, cluster_bits,
                                     std::max(size_max, std::uint64_t(12) << cluster_bits));
        // What cannot be kept true forbids writing: other tests look at that.
        return spec;
    }

    void want_bitmap(DiskOptions &options)
    {
        const std::string name = "made" + std::to_string(random_.below(2));
        const std::uint32_t bits = random_.pick<std::uint32_t>({9, 12, 16, 31});
        wanted_is_new_ = reference().bitmaps().count(name) == 0;
        if (!wanted_is_new_ && reference().bitmaps().at(name).in_use)
            return;
        options.bitmaps = {name};
        options.bitmap_granularity_bits = bits;
        if (wanted_is_new_)
            reference().add_bitmap(name, bits);
    }

    void forget_wanted(const DiskOptions &options)
    {
        if (!options.bitmaps.empty() && wanted_is_new_)
            reference().bitmaps().erase(options.bitmaps.front());
    }

    // B7: there was no room for a bitmap, and it says so itself.
    void expect_in_use()
    {
        ImageView view(image_);
        const CheckReport report = must(check(view));
        BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), report.text());
        bool one = false;
        for (const StoredBitmap &bitmap : must(must(ImageReader::open(view)).bitmaps())) {
            ReferenceBitmap &reference = this->reference().bitmaps().at(bitmap.entry.name);
            if (!bitmap.entry.in_use() || reference.in_use)
                continue;
            one = true;
            reference.in_use = true;
            reference.bits = bitmap.bits;
        }
        BOOST_REQUIRE(one);
    }

    // What was added and is not used was cut off.
    void check_length() const
    {
        if (image_.size <= size_before_)
            return;
        ImageView view(image_);
        const ImageReader reader = must(ImageReader::open(view));
        const std::uint64_t last = (image_.size - 1) >> spec_.cluster_bits;
        BOOST_REQUIRE_MESSAGE(must(reader.refcount(HostCluster(last))) != 0,
                              "the file of " << hex(image_.size) << " bytes ends in free space");
    }

    Random &random_;
    const ImageSpec spec_;
    const bool limited_;
    const std::uint64_t stirred_;
    BuiltImage built_;
    StoreImage image_;
    std::uint64_t size_before_ = 0;
    bool wanted_is_new_ = false;
    std::unique_ptr<MemoryStore> store_;
    std::unique_ptr<Disk> disk_;
};

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

// Opens the image anew again and again, until told to stop.
class Restructuring {
public:
    explicit Restructuring(Disk &disk)
        : thread_([this, &disk] {
              while (!stop_ && fault_.empty()) {
                  if (disk.why_read_only() || disk.size() == 0 || disk.report(true).size() > 1000)
                      fault_ = "not itself";
                  const Result<void> done = disk.restructure([](Image &) { return Result<void>(); });
                  if (!done)
                      fault_ = words(done);
                  std::this_thread::yield();
              }
          })
    {
    }
    std::string stop()
    {
        stop_ = true;
        thread_.join();
        return fault_;
    }

private:
    std::atomic<bool> stop_{false};
    std::string fault_;
    std::thread thread_;
};

// Threads at stripes of their own, which share clusters, tables, granules.
void threads_at_stripes(std::uint64_t seed)
{
    SEEDED(seed);
    Random random(seed);
    Bench bench(random, 0, false, seed);
    BOOST_TEST_INFO_SCOPE(bench.spec().text());
    bench.open();
    constexpr unsigned threads = 4;
    const std::uint64_t size = bench.reference().size();
    const std::uint64_t cluster = bench.disk().cluster_size();
    const std::uint64_t stripe =
        random.pick<std::uint64_t>({700, 512, 4096, cluster, cluster / 2, 3 * cluster});
    std::atomic<std::uint32_t> generation{1};
    std::vector<ReferenceDisk> references(threads, bench.reference());
    std::vector<Random> randoms;
    for (unsigned t = 0; t < threads; ++t)
        randoms.emplace_back(random());
    const auto stripes_of = [&](unsigned t) {  // t, t + threads, ...
        const std::uint64_t all = div_ceil(size, stripe);
        return all <= t ? 0 : div_ceil(all - t, threads);
    };
    std::vector<std::thread> workers;
    std::vector<std::string> faults(threads);
    const auto work = [&](unsigned t) {
        DiskDriver driver(bench.disk(), references[t], randoms[t], generation,
                          bench.driver_options());
        // Some of the disk only, so that the threads meet.
        const std::uint64_t used = std::min<std::uint64_t>(stripes_of(t), 20);
        for (int step = 0; step < 300 && used != 0; ++step) {
            const std::uint64_t begin = (randoms[t].below(used) * threads + t) * stripe;
            driver.step({begin, std::min(size, begin + stripe)});
        }
    };
    for (unsigned t = 0; t < threads; ++t)
        workers.emplace_back([&, t] {
            try {
                work(t);
            } catch (const std::exception &e) {
                faults[t] = e.what();
            }
        });
    std::optional<Restructuring> restructuring;
    if (random.one_in(3))
        restructuring.emplace(bench.disk());
    for (auto &worker : workers)
        worker.join();
    if (restructuring)
        faults.push_back(restructuring->stop());
    for (const std::string &fault : faults)
        BOOST_REQUIRE_MESSAGE(fault.empty(), fault);
    // Joined: each thread's bytes, everybody's bits.
    for (unsigned t = 0; t < threads; ++t) {
        for (std::uint64_t i = 0; i < stripes_of(t); ++i) {
            const std::uint64_t begin = (i * threads + t) * stripe;
            const Range range{begin, std::min(size, begin + stripe)};
            bench.reference().preset(GuestOffset(begin),
                                     references[t].read(GuestOffset(begin), range.length()));
        }
        for (auto &[name, bitmap] : bench.reference().bitmaps())
            bitmap.bits.or_with(references[t].bitmaps().at(name).bits);
    }
    bench.close();
}

// Threads at the same few clusters: what is found there was written there.
void threads_at_one_place(std::uint64_t seed)
{
    SEEDED(seed);
    Random random(seed);
    Bench bench(random, 0, false, seed);
    BOOST_TEST_INFO_SCOPE(bench.spec().text());
    bench.open();
    constexpr unsigned threads = 4;
    const std::uint64_t size = bench.reference().size();
    const std::uint64_t area = std::min(size, 4 * bench.disk().cluster_size()) & ~std::uint64_t(15);
    std::atomic<std::uint32_t> generation{1};
    std::vector<Random> randoms;
    for (unsigned t = 0; t < threads; ++t)
        randoms.emplace_back(random());
    std::atomic<unsigned> failures{0};
    const Buffer original = bench.reference().read(GuestOffset(0), area);
    // What may be found in a unit of payload: nothing of another place.
    const auto belongs = [&](std::uint64_t at, Bytes unit) {
        if (all_zero(unit) || std::equal(unit.begin(), unit.end(), original.begin() + at))
            return true;
        std::uint32_t drawn;
        __builtin_memcpy(&drawn, unit.data() + 8, 4);
        std::uint8_t expected[16];
        fill_payload(GuestOffset(at), expected, drawn);
        return std::equal(unit.begin(), unit.end(), expected) && drawn <= generation;
    };
    const auto first_stranger = [&](std::uint64_t begin, const Buffer &found) {
        std::uint64_t at = 0;
        while (at < found.size() && belongs(begin + at, sub(Bytes(found), at, 16)))
            at += 16;
        return at;
    };
    std::atomic<unsigned> strangers{0};
    std::vector<std::thread> workers;
    for (unsigned t = 0; t < threads; ++t)
        workers.emplace_back([&, t] {
            Disk &disk = bench.disk();
            Random &mine = randoms[t];
            for (int step = 0; step < 300; ++step) {
                Range range = mine.range(area, 200000, disk.cluster_size());
                range = {align_down(range.begin, 16), align_up(range.end, 16)};
                const GuestOffset offset(range.begin);
                Result<void> result;
                switch (mine.below(9)) {
                case 3:
                case 4:
                case 5: {
                    Buffer found(range.length());
                    result = disk.read(offset, found);
                    strangers += first_stranger(range.begin, found) != found.size();
                    break;
                }
                case 0:
                    result = disk.zero(offset, range.length(), {.may_unmap = mine.coin()});
                    break;
                case 1: result = disk.trim(offset, range.length(), mine.one_in(5)); break;
                case 2: result = mine.one_in(4) ? disk.settle() : disk.flush(); break;
                default:
                    result = disk.write(offset, payload(offset, range.length(), ++generation),
                                        mine.one_in(20));
                    break;
                }
                failures += !result;
            }
        });
    for (auto &worker : workers)
        worker.join();
    BOOST_REQUIRE_EQUAL(failures, 0u);

    BOOST_REQUIRE_EQUAL(strangers, 0u);

    Buffer found(area);
    must(bench.disk().read(GuestOffset(0), found));
    const std::uint64_t at = first_stranger(0, found);
    BOOST_REQUIRE_MESSAGE(at == area, "a stranger at guest offset " << hex(at));
    bench.reference().preset(GuestOffset(0), found);
    // Which granules were touched is known only as "some": take the file's.
    must(bench.disk().settle());
    const StoreImage now = bench.now();
    ImageView view(now);
    for (const StoredBitmap &bitmap : must(must(ImageReader::open(view)).bitmaps())) {
        ReferenceBitmap &reference = bench.reference().bitmaps().at(bitmap.entry.name);
        const Range outside{Range{0, area}.touched(bitmap.entry.granularity()).end,
                            bitmap.bits.size()};
        BOOST_REQUIRE_EQUAL(bitmap.bits.count(outside), reference.bits.count(outside));
        reference.bits = bitmap.bits;
    }
    bench.close();
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

BOOST_AUTO_TEST_CASE(threads_at_stripes_of_their_own)
{
    for (const std::uint64_t seed : seeds(20))
        threads_at_stripes(seed);
}

BOOST_AUTO_TEST_CASE(threads_at_the_same_clusters)
{
    for (const std::uint64_t seed : seeds(20))
        threads_at_one_place(seed);
}

BOOST_AUTO_TEST_SUITE_END()
