// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the power fails, or the process is killed, at any moment? The engine
// runs once over a CrashStore; then states of the disk are made for moments of
// that run, and each is asked the four questions: it opens and check finds
// leaks at worst; each flushed byte is there, each other old or new; each
// enabled bitmap covers what has changed (with bitmap-sync=on-close, or is
// marked in_use); writing on works, up to a second crash (and a third).

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/disk.h"
#include "tests/support/crash_store.h"
#include "tests/support/disk_driver.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/pieces.h"
#include "tests/support/qemu_img.h"
#include "tests/support/qemu_made.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(crash)

namespace {

struct Kind {
    std::uint32_t cluster_bits = 0;  // 0: any
    unsigned threads = 1;
    int steps = 60;
    bool limited = false;
    bool failing_flush = false;
    bool failing_writes = false;  // now and then; they land or not
    std::uint64_t length_max = 100000;
    bool table_grows = false;  // the refcount table is almost full
    bool fixed = false;        // the store cannot grow, as a block device
    bool no_room = false;      // not a free cluster, and bits of many pages
    bool no_room_for_bits = false;  // not a free cluster, and bits that need one
    bool granularities = false;  // bitmaps of 512 bytes, 64 KiB and 2 GiB at once
    bool on_close = false;     // bitmap-sync=on-close, always
    bool small_regions = false;  // and nothing else than bits that come and go
    std::uint64_t size = 0;    // of the disk; 0: any
    bool ends_inside_a_sector = false;  // the file, of a small disk
    bool restructured = false;  // resized, snapshots made, applied and deleted
    bool bitmaps_change = false;  // one comes, goes and changes; the disk is not settled for it
    std::optional<QemuMade> made = {};

    bool full() const { return no_room || no_room_for_bits; }
};

// B7: a full file may have no room for a bitmap, which then is given up, aloud.
// Whether that was heard in these lives.
std::atomic<bool> given_up{false};
std::atomic<unsigned> times_given_up{0};
std::atomic<unsigned> times_taken_back{0};

void listen(LogLevel, const std::string &line)
{
    if (line.find("is given up: no room") != line.npos) {
        given_up = true;
        ++times_given_up;
    }
    if (line.find("had been given up for lack of room, and is valid again") != line.npos)
        ++times_taken_back;
    if (std::getenv("QCOW2_LOG"))
        std::fprintf(stderr, "%s\n", line.c_str());
}

// What a first life begins with.
struct Beginning {
    StoreImage image;
    ReferenceDisk reference;
    std::unique_ptr<FileOpener> files;
    std::string text;
    bool version_2 = false;
    bool qemu_opens = true;

    static Beginning of(Random &random, const Kind &kind, const ImageSpec &spec)
    {
        if (kind.made) {
            QemuImage made = make_by_qemu(random, *kind.made);
            return {std::move(made.image), std::move(made.reference), std::move(made.files),
                    std::move(made.text), false, kind.made != QemuMade::backing};
        }
        BuiltImage built = build_image(spec);
        return {std::move(built.image), std::move(built.reference), nullptr, spec.text(),
                spec.version == 2, spec.qemu_opens()};
    }
};

// Lives of one image, each ended by a crash.
class Lives {
public:
    Lives(std::uint64_t seed, const Kind &kind)
        : kind_(kind), random_(seed),
          sync_(kind.on_close || (!kind.small_regions && !kind.full() && random_.one_in(4)) ? BitmapSync::on_close
                                                                            : BitmapSync::durable),
          region_bytes_(kind.small_regions
                            ? 16384
                            : random_.pick<std::uint64_t>({512, 4096, 65536, 1 << 20, 16 << 20})),
          beginning_(Beginning::of(random_, kind, spec_of(random_, kind))),
          before_(beginning_.reference), current_(beginning_.reference),
          life_(Life::of(beginning_.image))
    {
        given_up = false;
        if (kind.bitmaps_change)
            before_.bitmaps()[passing].passing = true;
        reading_.files = beginning_.files.get();
        if (reading_.files)
            reading_.path = "/disk.qcow2";
        if (kind.fixed && !kind.full())
            life_.cache.size = life_.durable.size =
                align_up(beginning_.image.size + random_.below(1 << 20), 512);
    }

    const std::string &text() const { return beginning_.text; }
    std::uint64_t states() const { return states_; }
    std::uint64_t changes() const { return changes_; }

    void run(int lives)
    {
        for (int i = 0; i < lives; ++i) {
            live(i == 0);
            crash();
        }
    }

private:
    static ImageSpec spec_of(Random &random, const Kind &kind)
    {
        std::uint64_t size_max = 1 << 20;
        if (kind.cluster_bits >= 18)
            size_max = std::uint64_t(6) << kind.cluster_bits;
        if (kind.ends_inside_a_sector)
            size_max = std::uint64_t(24) << kind.cluster_bits;
        ImageSpec spec = random_spec(random, kind.cluster_bits, size_max);
        if (kind.table_grows) {
            spec.version = 3;
            spec.refcount_order = 6;
            spec.size = 3 << 20;
            spec.free_every = 0;
            // 64 blocks of 64 clusters of 512 bytes; tables take some 150.
            const std::uint64_t filled = random.between(3850, 3920);
            for (std::uint64_t cluster = 0; cluster < filled; ++cluster)
                spec.clusters.emplace(cluster, Preset::data);
        }
        if (kind.size != 0)
            spec.size = kind.size;
        spec.unpadded_end |= kind.ends_inside_a_sector;
        if (kind.restructured)
            spec.size = align_up(spec.size, 512);
        // Threads change nothing else than snapshots: 1 bit would forbid them all.
        if (kind.restructured && kind.threads > 1)
            spec.refcount_order = std::max(spec.refcount_order, 1u);
        if (kind.small_regions) {
            spec.version = 3;
            spec.size = 4 << 20;
            spec.clusters.clear();
            for (std::uint64_t cluster = 0; cluster < spec.size >> spec.cluster_bits; ++cluster)
                spec.clusters.emplace(cluster, Preset::data);
            spec.bitmaps.assign(2, {});
            spec.bitmaps[0].name = "fine";
            spec.bitmaps[0].granularity_bits = 9;
            spec.bitmaps[1].granularity_bits = 12;
        }
        if (kind.no_room) {
            // An entry of a bitmap's table stands for 32 MiB, two pages of bits.
            // The last one, with a tail, has its cluster.
            spec.version = 3;
            spec.size = 72 << 20;
            spec.free_every = 0;
            spec.clusters.clear();
            for (std::uint64_t page = 0; page < windows; ++page)
                for (std::uint64_t i = 0; i < window_bytes >> spec.cluster_bits; ++i)
                    spec.clusters.emplace((page * page_reach >> spec.cluster_bits) + i, Preset::data);
            const std::uint64_t last = spec.size / 512 - 1;
            spec.bitmaps.assign(1, {});
            spec.bitmaps[0].granularity_bits = 9;
            spec.bitmaps[0].set = {{last, last + 1}};
        }
        if (kind.no_room_for_bits) {
            // The last bits of one bitmap have a cluster, those of the others have none.
            spec.version = 3;
            spec.size = 2 << 20;
            spec.free_every = 0;
            spec.clusters.clear();
            for (std::uint64_t cluster = 0; cluster < spec.size >> spec.cluster_bits; ++cluster)
                if (cluster % 4 < 2)
                    spec.clusters.emplace(cluster, Preset::data);
            spec.bitmaps.assign(3, {});
            for (unsigned i = 0; i < 3; ++i) {
                spec.bitmaps[i].name = "b" + std::to_string(i);
                spec.bitmaps[i].granularity_bits = 12;
            }
            spec.bitmaps[0].set = {{1, 3}};
        }
        if (kind.bitmaps_change && spec.version == 2)
            spec.version = 3;
        if (kind.granularities) {
            if (spec.version == 2)
                spec.version = 3;
            spec.bitmaps.clear();
            for (const std::uint32_t bits : {9, 16, 31}) {
                BitmapSpec bitmap;
                bitmap.name = "g" + std::to_string(bits);
                bitmap.granularity_bits = bits;
                spec.bitmaps.push_back(std::move(bitmap));
            }
        }
        return spec;
    }
    bool may_be_marked() const
    {
        return sync_ == BitmapSync::on_close || (may_be_full() && given_up);
    }
    bool may_be_in_place() const { return kind_.restructured && may_be_full(); }
    // Where ImageReader cannot read it.
    const DiskOptions *by_disk() const { return kind_.made ? &reading_ : nullptr; }
    bool may_be_full() const { return kind_.limited || kind_.fixed || kind_.failing_writes; }
    bool may_fail() const { return kind_.failing_flush || kind_.failing_writes; }

    // Where there is data in an image without room: the beginning of what each
    // of the first pages of bits stands for.
    static constexpr std::uint64_t page_reach = std::uint64_t(16) << 20;
    static constexpr std::uint64_t windows = 4;
    static constexpr std::uint64_t window_bytes = 64 << 10;

    static constexpr const char *passing = "passing";

    // Lets the store fail in this step, or not; where there is no room, at the
    // first write, which is that of the table of a bitmap.
    void fail_soon(int step)
    {
        if (!kind_.failing_writes || !(kind_.no_room ? step % 2 == 0 : random_.one_in(kind_.on_close ? 2 : 8)))
            return;
        write_faults_.arm({.kinds = Fault::writes,
                           .nth = kind_.no_room ? 1 : random_.between(1, 5),
                           .lands = random_.one_in(3),
                           .errc = random_.pick({Errc::io, Errc::no_space})});
    }
    void one_step(DiskDriver &driver, int step)
    {
        if (kind_.no_room) {
            // One page of an entry of the table, and then the other.
            const std::uint64_t page = (base_ >> 32 & 2) + static_cast<std::uint64_t>(step & 1);
            driver.step(Range::of(page * page_reach, window_bytes));
        } else if (kind_.failing_writes && kind_.on_close && random_.one_in(4)) {
            driver.settle();
        } else {
            driver.step({0, current_.size()});
        }
    }

    // From here on times are those of this life.
    std::uint64_t tick() { return base_ + store_->tick(); }

    void live(bool first)
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
        disk_options.region_bytes = region_bytes_;
        disk_options.cache_bytes = random_.coin() ? 1 : 0;
        if (first && !beginning_.version_2 && random_.one_in(3)) {
            disk_options.bitmaps = {"made"};
            disk_options.bitmap_granularity_bits = random_.pick<std::uint32_t>({9, 12, 16});
            before_.add_bitmap("made", *disk_options.bitmap_granularity_bits);
            before_.bitmaps().at("made").made_at = GuestHistory::never;
        }
        FaultStore top(*store_, write_faults_);
        auto disk = must(Disk::open(top, disk_options));
        BOOST_REQUIRE_MESSAGE(!disk->why_read_only(), disk->why_read_only()->what);
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

    DiskDriver::Options driver_options() const
    {
        DiskDriver::Options options;
        options.grain = kind_.threads > 1 ? 512 : 1;
        options.length_max = kind_.length_max;
        if (may_be_full())
            options.accepted.push_back(Errc::no_space);
        if (may_fail())
            options.accepted.push_back(Errc::io);
        options.fast_zero = false;
        return options;
    }

    DiskDriver::Clock clock()
    {
        return {[this] { return tick(); }, &history_,
                [this](std::uint64_t begun, std::uint64_t returned) {
                    history_.flushed(begun, returned);
                }};
    }

    void change(Disk &disk)
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
                const unsigned given_up_before = times_given_up;
                one_step(driver, step);
                // B7: not for data that were not placed.
                if (kind_.no_room_for_bits && driver.failures() != failures)
                    BOOST_REQUIRE_EQUAL(times_given_up, given_up_before);
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

    void work(Disk &disk, ReferenceDisk &reference, Random &random, unsigned thread,
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

    // --- Structural changes: a crash finds what was before, or what is after.

    struct Snapshot {
        ReferenceDisk content;
        std::uint64_t made;
    };
    // What is true from a structural change on: of `before_`, by the name.
    struct Stage {
        std::uint64_t begun, returned;
        ReferenceDisk before;
    };

    void forget_lost_snapshots(Disk &disk)
    {
        if (!kind_.restructured)
            return;
        const auto there = must(disk.snapshots());
        std::erase_if(snapshots_, [&](const auto &ours) {
            return std::none_of(there.begin(), there.end(),
                                [&](const auto &s) { return s.name == ours.first; });
        });
    }

    // False: it was refused, and nothing has changed.
    bool done(const Result<void> &result)
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

    void restructure(Disk &disk)
    {
        const std::uint64_t which = random_.below(4);
        if (which < 2)
            become(disk, [&](ReferenceDisk &after, ReferenceDisk &before) {
                const std::uint64_t size = 512 * random_.between(1, 3000);
                after.resize(size);
                before.resize(size);
                return [&disk, size] { return disk.resize(size); };
            });
        else if (which == 2 || snapshots_.empty())
            change_snapshots(disk, random_);
        else
            become(disk, [&](ReferenceDisk &after, ReferenceDisk &before) {
                const auto chosen = std::next(snapshots_.begin(),
                                              static_cast<std::ptrdiff_t>(random_.below(snapshots_.size())));
                after = chosen->second.content;
                before.resize(after.size());
                for (auto &[name, bitmap] : before.bitmaps())
                    if (bitmap.enabled && !bitmap.in_use)
                        bitmap.bits.set({0, bitmap.bits.size()});
                return [&disk, name = chosen->first] { return disk.revert(name); };
            });
    }

    // The disk becomes another, all of it at once. draw: changes what the disk
    // and the beginning of its bitmaps are after that; returns the operation.
    template <class Draw>
    void become(Disk &disk, Draw draw)
    {
        ReferenceDisk after = current_;
        ReferenceDisk before = stages_.empty() ? before_ : stages_.back().before;
        const auto operation = draw(after, before);
        const std::uint64_t begun = tick();
        const auto change = history_.begin(begun, GuestOffset(0),
                                           std::max(after.size(), current_.size()), after);
        if (!done(operation()))
            return;
        const std::uint64_t returned = tick();
        history_.end_durable(returned, change);
        history_.flushed(begun, returned);
        stages_.push_back({begun, returned, std::move(before)});
        current_ = std::move(after);
        BOOST_REQUIRE_EQUAL(disk.size(), current_.size());
    }

    // Nothing changes for the guest.
    void change_snapshots(Disk &disk, Random &random)
    {
        const auto there = must(disk.snapshots());
        if (there.size() > 3 || (!there.empty() && random.one_in(3))) {
            const std::string name = random.pick(there).name;
            if (done(disk.delete_snapshot(name)))
                snapshots_.erase(name);
            return;
        }
        const std::string name = "s" + std::to_string(++snapshots_made_);
        if (done(disk.create_snapshot({name, 1700000000, 0})) && kind_.threads == 1)
            snapshots_.insert({name, {current_, tick()}});
    }

    // One that nothing is known of but its name. All that is known of the others stays so:
    // in memory, which a new Tracker takes over, and in the file, where they are not settled.
    void change_bitmaps(Disk &disk, Random &random)
    {
        const auto states = must(disk.bitmap_states(false));
        const auto found = std::ranges::find(states, passing, &BitmapState::name);
        std::vector<DiskStep> steps;
        if (found == states.end()) {
            steps.push_back(AddBitmap{{.name = passing, .enabled = random.coin(), .all_dirty = random.coin()}});
        } else if (found->inconsistent) {  // on-close: since a crash
            steps.push_back(RemoveBitmap{passing});
        } else {
            std::vector<std::string> sources;
            for (const BitmapState &state : states)
                if (!state.inconsistent)
                    sources.push_back(state.name);
            const std::vector<DiskStep> each = {
                ClearBitmap{passing},
                found->enabled ? DiskStep(DisableBitmap{passing}) : DiskStep(EnableBitmap{passing}),
                MergeBitmaps{passing, sources}, RemoveBitmap{passing}};
            const std::size_t first = random.below(each.size());
            steps.assign(each.begin() + static_cast<std::ptrdiff_t>(first),
                         random.coin() ? each.end() : each.begin() + static_cast<std::ptrdiff_t>(first) + 1);
        }
        const auto changed = disk.change_together(steps);
        done(changed ? Result<void>() : Result<void>(changed.error()));
    }

    // What `before_` may be at an event, the older first.
    std::vector<const ReferenceDisk *> befores(std::uint64_t event) const
    {
        std::vector<const ReferenceDisk *> may_be = {&before_};
        for (const Stage &stage : stages_) {
            if (stage.returned <= event)
                may_be.clear();
            if (stage.begun <= event)
                may_be.push_back(&stage.before);
        }
        return may_be;
    }

    std::string verdict_of(const StoreImage &image, const ReferenceDisk &before, std::uint64_t event)
    {
        return crash_verdict(image, before, history_, event,
                             {.marked = may_be_marked(), .in_place = may_be_in_place()}, by_disk());
    }
    std::string verdict_of(const StoreImage &image, std::uint64_t event)
    {
        std::string all;
        for (const ReferenceDisk *before : befores(event)) {
            const std::string verdict = verdict_of(image, *before, event);
            if (verdict.empty())
                return {};
            all += (all.empty() ? "" : "\nor, after the structural change, ") + verdict;
        }
        return all;
    }

    // Looks at moments of the life that is over, and chooses how it ended.
    void crash()
    {
        CrashWalk walk(*store_);
        // What happens once in a life happens at its beginning or its end.
        const std::uint64_t few = std::min<std::uint64_t>(40, walk.events());
        std::uint64_t end = random_.between(walk.events() / 2, walk.events());
        if (random_.one_in(3))
            end = random_.below(few + 1);
        else if (random_.one_in(3))
            end = walk.events() - random_.below(few + 1);
        const std::uint64_t step = std::max<std::uint64_t>(1, end / 150);
        for (std::uint64_t event = random_.below(step + 1); event < end; event += random_.between(1, step)) {
            walk.advance_to(event);
            for (int i = 0; i < 3; ++i)
                judge(walk);
        }
        walk.advance_to(end);
        for (int i = 0; i < 10; ++i)
            judge(walk);
        // After a kill in the middle of a structural change it would have to be
        // known when it became durable; and what a failed flush left in doubt
        // stays so, whatever the flushes of the next life say.
        const bool power = random_.coin() || befores(base_ + walk.position()).size() > 1 ||
                           walk.in_doubt();
        life_ = power ? Life::of(walk.power_cut(random_)) : walk.kept(random_);
        judge_state(life_.cache, walk, "where life goes on");
        go_on(walk.position(), power);
    }

    void judge(const CrashWalk &walk)
    {
        const CrashMode mode = static_cast<CrashMode>(random_.below(crash_modes));
        const StoreImage image = walk.power_cut(random_, mode);
        judge_state(image, walk, "mode " + std::to_string(static_cast<int>(mode)));
        if (random_.one_in(current_.size() > (16 << 20) ? 150 : 25))
            reopen(image, walk);
    }

    void judge_state(const StoreImage &image, const CrashWalk &walk, const std::string &how)
    {
        ++states_;
        const std::uint64_t event = base_ + walk.position();
        std::string verdict = verdict_of(image, event);
        if (verdict.empty() && random_.one_in(1500) && beginning_.qemu_opens &&
            (!may_be_in_place() || checked(image).leaks_at_worst()))
            verdict = qemu_verdict(image, true);
        if (verdict.empty())
            return;
        BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict << "\nlife's event " << walk.position()
                                                       << ", " << how << ", "
                                                       << keep(image, "crashed")
                                                       << recording_around(walk));
    }

    static CheckReport checked(const StoreImage &image)
    {
        ImageView view(image);
        return must(check(view));
    }

    // With QCOW2_LOG: what the store was asked up to the crash.
    static std::string recording_around(const CrashWalk &walk)
    {
        if (!std::getenv("QCOW2_LOG"))
            return {};
        std::string lines = "\n";
        for (const Operation &operation : walk.recording().operations)
            if (operation.begun < walk.position())
                lines += to_string(operation) + "\n";
        return lines;
    }

    // The engine reads the same, writes on, and stops.
    void reopen(const StoreImage &image, const CrashWalk &walk)
    {
        BOOST_TEST_INFO_SCOPE("reopened after event " << walk.position());
        ImageView view(image);
        const GuestView guest = must(GuestView::open(view, by_disk()));
        ReferenceDisk found(guest.size());
        for_each_piece(found.size(), [&](Range piece, MutableBytes content) {
            must(guest.read(GuestOffset(piece.begin), content));
            found.preset(GuestOffset(piece.begin), content);
        });

        StoreOptions store_options;
        store_options.can_grow = !kind_.fixed;
        MemoryStore store(image, store_options);
        auto disk = must(Disk::open(store, reading_));
        BOOST_REQUIRE_MESSAGE(!disk->why_read_only(), disk->why_read_only()->what);
        must(disk->begin_writing());
        DiskDriver::Options options;
        if (kind_.fixed)
            options.accepted = {Errc::no_space};
        DiskDriver driver(*disk, found, random_, generation_, options);
        for_each_piece(found.size(), [&](Range piece, MutableBytes) { driver.read(piece); });
        for (int step = 0; step < 12; ++step)
            driver.step({0, found.size()});
        const Result<void> closed = disk->close();
        BOOST_REQUIRE_MESSAGE(closed || kind_.fixed, words(closed));
        const StoreImage after = store.image();
        ImageView after_view(after);
        const CheckReport report = checked(after);
        BOOST_REQUIRE_MESSAGE(report.leaks_at_worst() || (may_be_in_place() && harmless_in_place(report)),
                              report.text() << keep(after, "reopened"));
        const GuestView guest_after = must(GuestView::open(after_view, by_disk()));
        for_each_piece(found.size(), [&](Range piece, MutableBytes content) {
            const GuestOffset at(piece.begin);
            must(guest_after.read(at, content));
            const std::string fault = found.difference(at, content);
            BOOST_REQUIRE_MESSAGE(fault.empty(), fault);
        });
    }

    void go_on(std::uint64_t position, bool power)
    {
        const std::uint64_t event = base_ + position;
        for (const ReferenceDisk *before : befores(event))
            if (verdict_of(life_.cache, *before, event).empty()) {
                before_ = ReferenceDisk(*before);
                break;
            }
        base_ += std::uint64_t(1) << 32;
        stages_.clear();
        std::erase_if(snapshots_, [&](const auto &s) { return s.second.made > event; });
        ImageView view(life_.cache);
        const GuestView guest = must(GuestView::open(view, by_disk()));
        current_.resize(guest.size());
        const auto read = [&](GuestOffset offset, MutableBytes bytes) { must(guest.read(offset, bytes)); };
        history_.crashed(event, base_, power, read, current_);
        const auto made = before_.bitmaps().find("made");
        if (made == before_.bitmaps().end())
            return;
        // Made but not durably so: it may be there or not; from now on it is
        // where this state has it.
        bool there = false;
        for (const StoredBitmap &bitmap : must(guest.reader().bitmaps()))
            there = there || bitmap.entry.name == "made";
        if (!there && power)
            before_.bitmaps().erase(made);
        else if (made->second.made_at > event)
            made->second.made_at = GuestHistory::never;
    }

    const Kind kind_;
    Random random_;
    const BitmapSync sync_;
    const std::uint64_t region_bytes_;
    Beginning beginning_;
    DiskOptions reading_;    // how the image is opened
    ReferenceDisk before_;   // the beginning of all lives
    ReferenceDisk current_;
    std::vector<Stage> stages_;  // of this life
    std::map<std::string, Snapshot> snapshots_;  // those of which the content is known
    unsigned snapshots_made_ = 0;
    Life life_;
    std::unique_ptr<CrashStore> store_;
    FaultPlan write_faults_;
    GuestHistory history_;
    std::uint64_t base_ = 0;
    std::atomic<std::uint32_t> generation_{1};
    std::uint64_t states_ = 0;
    std::uint64_t changes_ = 0;  // of the structure
};

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
    BOOST_TEST((figures.states >= states_min * smoke || std::getenv("QCOW2_SEED")));
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

// W8. Small, so that what is at the end is soon written to.
BOOST_AUTO_TEST_CASE(a_file_that_ends_inside_a_sector)
{
    run_all(6, {.cluster_bits = 12, .steps = 20, .length_max = 40000, .ends_inside_a_sector = true});
    if (std::getenv("QCOW2_SEED"))
        return;
    Figures figures;
    run(166638321359801, {}, figures);  // found by make soak
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
    run_all(4, {.cluster_bits = 12, .steps = 40, .length_max = 700, .on_close = true, .small_regions = true});
}

BOOST_AUTO_TEST_CASE(bits_under_threads)
{
    run_all(4, {.cluster_bits = 12, .threads = 4, .steps = 80, .length_max = 700, .small_regions = true});
}

BOOST_AUTO_TEST_CASE(a_store_that_gets_full) { run_all(4, {.limited = true}); }

BOOST_AUTO_TEST_CASE(a_flush_that_fails) { run_all(6, {.failing_flush = true}); }

BOOST_AUTO_TEST_CASE(writes_that_fail)
{
    run_all(4, {.failing_writes = true});
    run_all(4, {.cluster_bits = 12, .failing_writes = true, .length_max = 700, .on_close = true, .small_regions = true});
}

// B7, where the table of a bitmap cannot be written at once.
BOOST_AUTO_TEST_CASE(writes_that_fail_without_room)
{
    run_all(12, {.cluster_bits = 13, .steps = 12, .failing_writes = true, .length_max = 700, .fixed = true,
                .no_room = true});
}

// B7, where no cluster is left for the last bits: bitmaps are given up, and taken
// back when something was trimmed.
BOOST_AUTO_TEST_CASE(bits_that_have_no_room)
{
    times_given_up = times_taken_back = 0;
    run_all(6, {.cluster_bits = 12, .length_max = 9000, .fixed = true, .no_room_for_bits = true});
    BOOST_TEST(times_given_up > 0u);
    BOOST_TEST(times_taken_back > 0u);
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
    run_all(3, {.cluster_bits = 12, .steps = 80, .length_max = 700, .small_regions = true, .bitmaps_change = true});
    run_all(2, {.cluster_bits = 12, .threads = 3, .steps = 60, .length_max = 700, .small_regions = true,
                .bitmaps_change = true});
    run_all(2, {.cluster_bits = 9, .fixed = true, .bitmaps_change = true});
}

BOOST_AUTO_TEST_CASE(compressed_clusters) { run_all(3, {.made = QemuMade::compressed}); }

BOOST_AUTO_TEST_CASE(subclusters) { run_all(3, {.made = QemuMade::subclusters}); }

BOOST_AUTO_TEST_CASE(a_backing_file) { run_all(3, {.made = QemuMade::backing}); }

BOOST_AUTO_TEST_CASE(resized_and_reverted_of_what_qemu_made)
{
    run_all(1, {.steps = 25, .restructured = true, .made = QemuMade::compressed});
    run_all(1, {.steps = 25, .restructured = true, .made = QemuMade::subclusters});
    run_all(1, {.steps = 25, .restructured = true, .made = QemuMade::backing});
}

BOOST_AUTO_TEST_SUITE_END()
