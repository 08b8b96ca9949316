// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Disk against flat bytes and flat bitmaps, under random operations of several threads: at
// stripes of their own, and at one place.

#include <atomic>
#include <optional>
#include <thread>

#include "tests/model/disk_bench.h"
#include "tests/support/payload.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(disk_model)

namespace {

// Opens the image anew again and again, until told to stop.
class Restructuring {
public:
    explicit Restructuring(Disk &disk)
        : thread_([this, &disk] {
              while (!stop_ && fault_.empty()) {
                  if (disk.why_read_only() || disk.size() == 0 || disk.report(true).size() > 1000)
                      fault_ = "not itself";
                  const Result<void> done =
                      disk.restructure([](Image &) { return Result<void>(); });
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
    std::vector<std::vector<Range>> written(threads);
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
                    written[t].push_back(range);
                    break;
                }
                failures += !result;
            }
        });
    for (auto &worker : workers)
        worker.join();
    BOOST_REQUIRE_EQUAL(failures, 0u);

    BOOST_REQUIRE_EQUAL(strangers, 0u);
    std::vector<Range> all_written;
    for (const std::vector<Range> &mine : written)
        all_written.insert(all_written.end(), mine.begin(), mine.end());

    Buffer found(area);
    must(bench.disk().read(GuestOffset(0), found));
    const std::uint64_t at = first_stranger(0, found);
    BOOST_REQUIRE_MESSAGE(at == area, "a stranger at guest offset " << hex(at));
    bench.reference().preset(GuestOffset(0), found);
    // What was written is dirty. Which granules were zeroed or trimmed is known only as "some":
    // take the file's.
    must(bench.disk().settle());
    const StoreImage now = bench.now();
    ImageView view(now);
    for (const StoredBitmap &bitmap : must(must(ImageReader::open(view)).bitmaps())) {
        ReferenceBitmap &reference = bench.reference().bitmaps().at(bitmap.entry.name);
        const Range outside{Range{0, area}.touched(bitmap.entry.granularity()).end,
                            bitmap.bits.size()};
        BOOST_REQUIRE_EQUAL(bitmap.bits.count(outside), reference.bits.count(outside));
        if (bitmap.entry.enabled() && !bitmap.entry.in_use())
            for (const Range &range : all_written)
                BOOST_REQUIRE_MESSAGE(bitmap.bits.all(range.touched(bitmap.entry.granularity())),
                                      bitmap.entry.name << " has missed a write at "
                                                        << hex(range.begin));
        reference.bits = bitmap.bits;
    }
    bench.close();
}

}  // namespace

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
