// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lives: how they go, up to the crash.

#include "tests/crash/lives.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "core/base/arith.h"
#include "core/base/log.h"
#include "core/format/limits.h"

namespace qcow2::test {

Heard heard;

namespace {

void listen(LogLevel, const std::string &line)
{
    if (line.find("is given up: no room") != line.npos) {
        heard.given_up = true;
        ++heard.times_given_up;
    }
    if (line.find("had been given up for lack of room, and is valid again") != line.npos)
        ++heard.times_taken_back;
    if (std::getenv("QCOW2_LOG"))
        std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace

Lives::Lives(std::uint64_t seed, const Kind &kind)
    : kind_(kind),
      random_(seed),
      sync_(kind.on_close || (!kind.small_regions && !kind.full() && random_.one_in(4))
                ? BitmapSync::on_close
                : BitmapSync::durable),
      arming_{.region_bytes = kind.small_regions ? 16384
                                                 : random_.pick<std::uint64_t>(
                                                       {512, 4096, 65536, 1 << 20, 16 << 20}),
              .armings_all_over = seed % 3 == 0 ? 2u : 1000u},
      beginning_(Beginning::of(random_, kind, spec_of(random_, kind))),
      before_(beginning_.reference),
      current_(beginning_.reference),
      life_(Life::of(beginning_.image))
{
    heard.given_up = false;
    if (kind.bitmaps_change)
        before_.bitmaps()[passing].passing = true;
    reading_.files = beginning_.files.get();
    if (reading_.files)
        reading_.path = "/disk.qcow2";
    if (kind.fixed && !kind.full())
        life_.cache.size = life_.durable.size =
            align_up(beginning_.image.size + random_.below(1 << 20), 512);
}

void Lives::run(int lives)
{
    for (int i = 0; i < lives; ++i) {
        live(i == 0);
        crash();
    }
}

bool Lives::may_be_marked() const
{
    return sync_ == BitmapSync::on_close || (may_be_full() && heard.given_up);
}

void Lives::fail_soon(int step)
{
    if (!kind_.failing_writes ||
        !(kind_.no_room ? step % 2 == 0 : random_.one_in(kind_.on_close ? 2 : 8)))
        return;
    write_faults_.arm({.kinds = Fault::writes,
                       .nth = kind_.no_room ? 1 : random_.between(1, 5),
                       .lands = random_.one_in(3),
                       .errc = random_.pick({Errc::io, Errc::no_space})});
}

void Lives::one_step(DiskDriver &driver, int step)
{
    if (kind_.no_room) {
        // One page of an entry of the table, and then the other.
        const std::uint64_t page = (base_ >> 32 & 2) + static_cast<std::uint64_t>(step & 1);
        driver.step(Range::of(page * Kind::page_reach, Kind::window_bytes));
    } else if (kind_.failing_writes && kind_.on_close && random_.one_in(4)) {
        driver.settle();
    } else if (kind_.ends_inside_a_sector && step == 0) {
        // W8: only until the file has grown, and its growth is durable.
        BOOST_REQUIRE(beginning_.at_end);
        const std::uint64_t sector = align_down(beginning_.at_end->value, limits::sector);
        driver.write(Range::of(sector, limits::sector), false);
    } else {
        driver.step({0, current_.size()});
    }
}

void Lives::forget_lost_snapshots(Disk &disk)
{
    if (!kind_.restructured)
        return;
    const auto there = must(disk.snapshots());
    std::erase_if(snapshots_, [&](const auto &ours) {
        return std::none_of(there.begin(), there.end(),
                            [&](const auto &s) { return s.name == ours.first; });
    });
}

void Lives::live(bool first)
{
    set_log_sink(listen);
    StoreOptions options;
    options.growth_step = random_.pick<std::uint64_t>({1, 512, 65536, 1 << 20});
    options.discarded = random_.pick({Discarded::zero, Discarded::kept, Discarded::garbage});
    options.durable_alone = random_.coin();
    if (kind_.limited)
        options.size_limit = life_.cache.size + random_.below(1 << 20);
    options.can_grow = !kind_.fixed;
    store_ = std::make_unique<CrashStore>(life_, options);
    if (kind_.failing_flush)
        store_->flush_faults().arm({.kinds = Fault::flushes, .nth = random_.between(1, 30)});
    if (kind_.threads > 1)
        store_->stir(random_());

    DiskOptions disk_options = reading_;
    disk_options.bitmap_sync = sync_;
    disk_options.arming = arming_;
    disk_options.cache_bytes = random_.coin() ? 1 : 0;
    if (first && !beginning_.version_2 && random_.one_in(3)) {
        disk_options.bitmaps = {"made"};
        disk_options.bitmap_granularity_bits = random_.pick<std::uint32_t>({9, 12, 16});
        before_.add_bitmap("made", *disk_options.bitmap_granularity_bits);
        before_.bitmaps().at("made").made_at = GuestHistory::never;
    }
    FaultStore top(*store_, write_faults_);
    auto disk = must(Disk::open(top, disk_options));
    BOOST_REQUIRE_MESSAGE(!disk->why_read_only(), words(disk->why_read_only()));
    const Result<void> begun = disk->begin_writing();
    if (!begun) {
        BOOST_REQUIRE_MESSAGE(may_be_full() || may_fail(), words(begun));
        return;
    }
    if (!disk_options.bitmaps.empty())
        before_.bitmaps().at("made").made_at = tick();
    forget_lost_snapshots(*disk);
    change(*disk);
    // Sometimes the life ends well; the crash comes before, or after.
    if (random_.coin()) {
        const std::uint64_t time = tick();
        const Result<void> closed = disk->close();
        BOOST_REQUIRE_MESSAGE(closed || may_be_full() || may_fail(), words(closed));
        if (closed)
            history_.flushed(time, tick());
    }
}

DiskDriver::Options Lives::driver_options() const
{
    DiskDriver::Options options;
    options.grain = kind_.threads > 1 ? 512 : 1;
    options.length_max = kind_.length_max;
    if (may_be_full())
        options.accepted.push_back(Errc::no_space);
    if (may_fail())
        options.accepted.push_back(Errc::io);
    return options;
}

DiskDriver::Clock Lives::clock()
{
    return {
        [this] { return tick(); }, &history_,
        [this](std::uint64_t begun, std::uint64_t returned) { history_.flushed(begun, returned); }};
}

void Lives::change(Disk &disk)
{
    if (kind_.threads == 1) {
        DiskDriver driver(disk, current_, random_, generation_, driver_options());
        driver.keep_history(clock());
        for (int step = 0; step < kind_.steps; ++step) {
            if (kind_.restructured && random_.one_in(12))
                restructure(disk);
            if (kind_.bitmaps_change && random_.one_in(6))
                change_bitmaps(disk, random_);
            fail_soon(step);
            const std::uint64_t failures = driver.failures();
            const unsigned given_up_before = heard.times_given_up;
            one_step(driver, step);
            // B7: not for data that were not placed.
            if (kind_.no_room_for_bits && driver.failures() != failures)
                BOOST_REQUIRE_EQUAL(heard.times_given_up, given_up_before);
            write_faults_.disarm();
        }
        return;
    }
    const std::uint64_t stripe =
        random_.pick<std::uint64_t>({512, 4096, disk.cluster_size(), 3 * disk.cluster_size()});
    std::vector<ReferenceDisk> references(kind_.threads, current_);
    std::vector<Random> randoms;
    for (unsigned t = 0; t < kind_.threads; ++t)
        randoms.emplace_back(random_());
    std::vector<std::string> faults(kind_.threads);
    std::vector<std::thread> workers;
    for (unsigned t = 0; t < kind_.threads; ++t)
        workers.emplace_back([&, t] {
            try {
                work(disk, references[t], randoms[t], t, stripe);
            } catch (const std::exception &e) {
                faults[t] = e.what();
            }
        });
    for (auto &worker : workers)
        worker.join();
    for (const std::string &fault : faults)
        BOOST_REQUIRE_MESSAGE(fault.empty(), fault);
}

void Lives::work(Disk &disk, ReferenceDisk &reference, Random &random, unsigned thread,
                 std::uint64_t stripe)
{
    DiskDriver driver(disk, reference, random, generation_, driver_options());
    driver.keep_history(clock());
    const std::uint64_t size = reference.size();
    const std::uint64_t all = div_ceil(size, stripe);
    if (all <= thread)
        return;
    const std::uint64_t mine = std::min<std::uint64_t>(div_ceil(all - thread, kind_.threads), 12);
    for (int step = 0; step < kind_.steps; ++step) {
        // While the others go on.
        if (kind_.restructured && thread == 0 && random.one_in(12))
            change_snapshots(disk, random);
        if (kind_.bitmaps_change && thread == 0 && random.one_in(6))
            change_bitmaps(disk, random);
        const std::uint64_t begin = (random.below(mine) * kind_.threads + thread) * stripe;
        driver.step({begin, std::min(size, begin + stripe)});
    }
}

bool Lives::done(const Result<void> &result)
{
    if (result) {
        ++changes_;
        return true;
    }
    const Errc code = result.error().code;
    // Refcounts may be too narrow for a snapshot.
    if (code != Errc::unsupported && !(may_be_full() && code == Errc::no_space))
        throw Failed("a structural change: " + words(result));
    return false;
}

}  // namespace qcow2::test
