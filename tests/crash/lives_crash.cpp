// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lives: the crash, what is asked of the states that it may leave, and which of them the
// next life begins with.

#include "tests/crash/lives.h"

#include <algorithm>
#include <cstdlib>

#include "tests/support/pieces.h"
#include "tests/support/qemu_img.h"

namespace qcow2::test {

std::vector<const ReferenceDisk *> Lives::befores(std::uint64_t event) const
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

std::string Lives::verdict_of(const StoreImage &image, const ReferenceDisk &before,
                              std::uint64_t event)
{
    return crash_verdict(image, before, history_, event,
                         {.marked = may_be_marked(), .in_place = may_be_in_place()}, by_disk());
}

std::string Lives::verdict_of(const StoreImage &image, std::uint64_t event)
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

void Lives::crash()
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
    for (std::uint64_t event = random_.below(step + 1); event < end;
         event += random_.between(1, step)) {
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
    const bool power =
        random_.coin() || befores(base_ + walk.position()).size() > 1 || walk.in_doubt();
    life_ = power ? Life::of(walk.power_cut(random_)) : walk.kept(random_);
    judge_state(life_.cache, walk, "where life goes on");
    go_on(walk.position(), power);
}

CheckReport Lives::checked(const StoreImage &image)
{
    ImageView view(image);
    return must(check(view));
}

std::string Lives::recording_around(const CrashWalk &walk)
{
    if (!std::getenv("QCOW2_LOG"))
        return {};
    std::string lines = "\n";
    for (const Operation &operation : walk.recording().operations)
        if (operation.begun < walk.position())
            lines += to_string(operation) + "\n";
    return lines;
}

void Lives::judge(const CrashWalk &walk)
{
    const CrashMode mode = static_cast<CrashMode>(random_.below(crash_modes));
    const StoreImage image = walk.power_cut(random_, mode);
    judge_state(image, walk, "mode " + std::to_string(static_cast<int>(mode)));
    if (random_.one_in(current_.size() > (16 << 20) ? 150 : 25))
        reopen(image, walk);
}

void Lives::judge_state(const StoreImage &image, const CrashWalk &walk, const std::string &how)
{
    ++states_;
    const std::uint64_t event = base_ + walk.position();
    std::string verdict = verdict_of(image, event);
    if (verdict.empty() && random_.one_in(1500) && beginning_.qemu_opens &&
        (!may_be_in_place() || checked(image).leaks_at_worst()))
        verdict = qemu_verdict(image, true);
    if (verdict.empty())
        return;
    BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict << "\nlife's event " << walk.position() << ", "
                                                   << how << ", " << keep(image, "crashed")
                                                   << recording_around(walk));
}

void Lives::reopen(const StoreImage &image, const CrashWalk &walk)
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
    BOOST_REQUIRE_MESSAGE(!disk->why_read_only(), words(disk->why_read_only()));
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
    BOOST_REQUIRE_MESSAGE(report.leaks_at_worst() ||
                              (may_be_in_place() && harmless_in_place(report)),
                          report.text() << keep(after, "reopened"));
    const GuestView guest_after = must(GuestView::open(after_view, by_disk()));
    for_each_piece(found.size(), [&](Range piece, MutableBytes content) {
        const GuestOffset at(piece.begin);
        must(guest_after.read(at, content));
        const std::string fault = found.difference(at, content);
        BOOST_REQUIRE_MESSAGE(fault.empty(), fault);
    });
}

void Lives::go_on(std::uint64_t position, bool power)
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
    const auto read = [&](GuestOffset offset, MutableBytes bytes) {
        must(guest.read(offset, bytes));
    };
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

}  // namespace qcow2::test
