// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A disk that lives through a fault, and what is asked of it afterwards.

#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/disk.h"
#include "tests/support/crash_store.h"
#include "tests/support/disk_driver.h"
#include "tests/support/fault_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/pieces.h"
#include "tests/support/verdict.h"

namespace fault {

using namespace qcow2;
using namespace qcow2::test;

// Small ones: an L2 table reaches 128 of them.
inline constexpr std::uint32_t cluster_bits = 10;
inline constexpr std::uint64_t cs = 1 << cluster_bits;

inline ImageSpec fault_spec()
{
    ImageSpec spec;
    spec.cluster_bits = cluster_bits;
    spec.size = 512 * cs;
    spec.clusters = {{0, Preset::data},         {1, Preset::data},
                     {2, Preset::zero},         {3, Preset::zero_with_cluster},
                     {4, Preset::shared_data},  {5, Preset::data},
                     {140, Preset::shared_data}};
    spec.bitmaps = {{.name = "b0", .granularity_bits = 10, .set = {{7, 9}}, .extra_data = {}},
                    {.name = "new", .granularity_bits = 12, .set = {}, .extra_data = {}},
                    {.name = "off", .enabled = false, .set = {{0, 3}}, .extra_data = {}}};
    return spec;
}

// How bitmaps are kept, and whether a few bytes can be made durable alone.
struct BitmapKeeping {
    BitmapSync sync = BitmapSync::durable;
    bool durable_alone = false;
};
inline const std::vector<BitmapKeeping> keepings = {{BitmapSync::durable, false},
                                                    {BitmapSync::durable, true},
                                                    {BitmapSync::on_close, false},
                                                    {BitmapSync::on_close, true}};

inline std::ostream &operator<<(std::ostream &out, const BitmapKeeping &keeping)
{
    return out << (keeping.sync == BitmapSync::durable ? "durable" : "on-close")
               << (keeping.durable_alone ? ", bytes alone" : "");
}

// B7: without room a bitmap may be given up, aloud.
inline bool given_up = false;
inline void listen(LogLevel, const std::string &line)
{
    given_up |= line.find("is given up: no room") != line.npos;
}

// One disk that lives through a fault.
class Trial {
public:
    explicit Trial(FaultPlan &plan, const BitmapKeeping &keeping,
                   const ImageSpec &spec = fault_spec())
        : plan_(plan),
          fault_(plan.fault()),
          keeping_(keeping),
          built_(build_image(spec)),
          before_(built_.reference),
          memory_(Life::of(built_.image),
                  {.durable_alone = keeping.durable_alone, .growth_step = 4096}),
          store_(memory_, plan),
          random_(plan.fault().nth)
    {
        set_log_sink(listen);
        given_up = false;
        plan.disarm();
        DiskOptions options;
        options.bitmap_sync = keeping.sync;
        disk_ = must(Disk::open(store_, options));
        must(disk_->begin_writing());
        DiskDriver::Options driver_options;
        driver_options.accepted = {Errc::io, Errc::no_space};
        driver_.emplace(*disk_, built_.reference, random_, generation_, driver_options);
        driver_->keep_history({[this] { return memory_.tick(); }, &history_,
                               [this](std::uint64_t begun, std::uint64_t returned) {
                                   history_.flushed(begun, returned);
                               }});
    }

    DiskDriver &driver() { return *driver_; }
    Disk &disk() { return *disk_; }

    // The fault is there for this long.
    template <class Request>
    void with_fault(Request request)
    {
        fault_at_ = memory_.now();
        plan_.arm(fault_);
        request();
        plan_.disarm();
    }

    void judge()
    {
        for_each_piece(built_.reference.size(),
                       [&](Range piece, MutableBytes) { driver_->read(piece); });
        judge_writing();
        const std::uint64_t begun = memory_.tick();
        const Result<void> closed = disk_->close();
        if (closed)
            history_.flushed(begun, memory_.tick());
        else
            expect_first_cause(closed.error());
        disk_.reset();

        const StoreImage image = memory_.image();
        judge_state(image, memory_.now());
        judge_power_cuts();
        if (closed)
            judge_closed(image);
        judge_next_life(image);
    }

private:
    void judge_state(const StoreImage &image, std::uint64_t event)
    {
        const bool may_be_marked = keeping_.sync == BitmapSync::on_close || given_up;
        const std::string verdict =
            crash_verdict(image, before_, history_, event, {.marked = may_be_marked});
        BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict);
    }

    // Some of the moments since the fault was armed.
    void judge_power_cuts()
    {
        CrashWalk walk(memory_);
        const std::uint64_t step = std::max<std::uint64_t>(1, (walk.events() - fault_at_) / 10);
        for (std::uint64_t event = fault_at_; event <= walk.events();
             event += random_.between(1, step)) {
            BOOST_TEST_INFO_SCOPE("the power fails at event " << event << " of " << walk.events());
            walk.advance_to(event);
            judge_state(walk.power_cut(random_), event);
        }
    }

    // Where the fault struck, and in the last granules, which nothing has touched.
    void judge_writing()
    {
        std::uint64_t failures = driver_->failures();
        driver_->write({5 * cs, 6 * cs}, false);
        if (driver_->failures() != failures) {
            const Result<void> written = disk_->write(GuestOffset(5 * cs), Buffer(512), false);
            BOOST_REQUIRE(!written);
            expect_first_cause(written.error());
            BOOST_REQUIRE(!disk_->flush());
            return;
        }
        if (disk_->size() == 512 * cs)
            driver_->write({500 * cs, 501 * cs + 1}, false);
        failures = driver_->failures();
        driver_->flush();
        BOOST_REQUIRE_EQUAL(driver_->failures(), failures);
    }

    static void expect_first_cause(const Error &error)
    {
        BOOST_REQUIRE_MESSAGE(error.code == Errc::io, words(Result<void>(error)));
        BOOST_REQUIRE_MESSAGE(error.what.find("injected fault") != std::string::npos, error.what);
    }

    // The bitmap is exact, but for changes that failed; nothing of use is lost.
    void judge_closed(const StoreImage &image)
    {
        ImageView view(image);
        const ImageReader reader = must(ImageReader::open(view));
        for_each_piece(built_.reference.size(), [&](Range piece, MutableBytes found) {
            must(reader.read(GuestOffset(piece.begin), found));
            const std::string fault = built_.reference.difference(GuestOffset(piece.begin), found);
            BOOST_REQUIRE_MESSAGE(fault.empty(), fault);
        });
        for (const StoredBitmap &bitmap : must(reader.bitmaps())) {
            const ReferenceBitmap &reference = built_.reference.bitmaps().at(bitmap.entry.name);
            if (given_up && bitmap.entry.enabled() && bitmap.entry.in_use())
                continue;
            BOOST_REQUIRE_EQUAL(bitmap.entry.in_use(), reference.in_use);
            // A change that failed because the bitmap could not be read leaves
            // no bit. (If anything of it went down, crash_verdict() says so.)
            BitVector both = bitmap.bits;
            both.or_with(reference.bits);
            BOOST_REQUIRE(both == reference.bits);
            if (fault_.kinds != Fault::reads)
                BOOST_REQUIRE(bitmap.bits == reference.bits);
        }
    }

    void judge_next_life(const StoreImage &image)
    {
        MemoryStore store(image);
        auto disk = must(Disk::open(store, {}));
        must(disk->begin_writing());
        ImageView view(image);
        const ImageReader reader = must(ImageReader::open(view));
        Buffer expected;
        for_each_piece(built_.reference.size(), [&](Range piece, MutableBytes found) {
            const GuestOffset at(piece.begin);
            expected.resize(found.size());
            must(reader.read(at, expected));
            must(disk->read(at, found));
            BOOST_REQUIRE_EQUAL(payload_difference(at, expected, found), "");
        });
        must(disk->write(GuestOffset(0), Buffer(std::min<std::uint64_t>(disk->size(), 100000), 1),
                         true));
        must(disk->close());
        const StoreImage after = store.image();
        ImageView after_view(after);
        const CheckReport report = must(check(after_view));
        BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), report.text());
    }

    FaultPlan &plan_;
    const Fault fault_;
    const BitmapKeeping keeping_;
    BuiltImage built_;
    const ReferenceDisk before_;
    CrashStore memory_;
    FaultStore store_;
    Random random_;
    std::atomic<std::uint32_t> generation_{1};
    std::unique_ptr<Disk> disk_;
    GuestHistory history_;
    std::uint64_t fault_at_ = 0;
    std::optional<DiskDriver> driver_;
};

}  // namespace fault
