// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/structural.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/image/snapshots.h"
#include "tests/support/crash_store.h"
#include "tests/support/fault_store.h"
#include "tests/support/must.h"
#include "tests/support/qemu_img.h"

namespace qcow2::test {

namespace {

constexpr std::uint64_t piece_size = 4096;

Result<Content> read_content(Disk &disk)
{
    Content content;
    const std::uint64_t size = disk.size();
    for (std::uint64_t at = 0; at < size;) {
        for (const Extent &extent : TRY(disk.block_status(GuestOffset(at), size - at))) {
            const std::uint64_t end = at + extent.length;
            if (!extent.zero)
                for (std::uint64_t piece = align_down(at, piece_size); piece < end;
                     piece += piece_size) {
                    Buffer bytes(std::min(piece_size, size - piece));
                    TRY(disk.read(GuestOffset(piece), bytes));
                    if (!all_zero(bytes))
                        content.insert_or_assign(piece, std::move(bytes));
                }
            at = end;
        }
    }
    return content;
}

Result<std::vector<DiskState::Bitmap>> read_bitmaps(const ImageReader &reader)
{
    std::vector<DiskState::Bitmap> bitmaps;
    for (const StoredBitmap &bitmap : TRY(reader.bitmaps()))
        bitmaps.push_back({bitmap.entry.name, bitmap.entry.flags, bitmap.entry.granularity_bits,
                           bitmap.entry.extra_data, bitmap.bits});
    return bitmaps;
}

Result<std::unique_ptr<Disk>> open_for_reading(ByteStore &store, DiskOptions options)
{
    options.read_only = true;
    options.cache_bytes = 1;
    return Disk::open(store, options);
}

// To know a state again.
std::uint64_t fingerprint(const StoreImage &image)
{
    std::uint64_t hash = image.size;
    image.bytes.for_each_page([&](std::uint64_t offset, Bytes page) {
        if (all_zero(page))
            return;
        hash = (hash ^ offset) * 0x9e3779b97f4a7c15u;
        for (std::size_t i = 0; i < page.size(); i += 8) {
            std::uint64_t word;
            __builtin_memcpy(&word, &page[i], 8);
            hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
            hash ^= hash >> 32;
        }
    });
    return hash;
}

std::string words_for(const Content &content)
{
    std::uint64_t sum = 0;
    for (const auto &[offset, bytes] : content)
        for (const std::uint8_t byte : bytes)
            sum = (sum + offset + byte) * 31;
    return std::to_string(content.size()) + " pieces, sum " + hex(sum);
}

struct FaultKind {
    const char *name;
    Fault fault;
};

const FaultKind fault_kinds[] = {
    {"read", {.kinds = Fault::reads}},
    {"write", {.kinds = Fault::writes}},
    {"write, from then on", {.kinds = Fault::writes, .forever = true}},
    {"write that lands", {.kinds = Fault::writes, .lands = true}},
    {"write that lands, from then on", {.kinds = Fault::writes, .forever = true, .lands = true}},
    {"write without space", {.kinds = Fault::writes, .errc = Errc::no_space}},
    {"flush", {.kinds = Fault::flushes}},
    {"flush that lands", {.kinds = Fault::flushes, .lands = true}},
    {"growth without space", {.kinds = Fault::grows, .errc = Errc::no_space}},
    {"growth without space, from then on",
     {.kinds = Fault::grows, .forever = true, .errc = Errc::no_space}},
    {"growth", {.kinds = Fault::grows}},
    {"zero or discard", {.kinds = Fault::zeros | Fault::discards}},
    {"anything, from then on", {.kinds = Fault::all, .forever = true}},
};

}  // namespace

Content content_of(Disk &disk) { return must(read_content(disk)); }

std::string DiskState::text() const
{
    std::string text = "size " + std::to_string(size) + ", " + words_for(content) + "\n";
    for (const Snapshot &s : snapshots)
        text += "snapshot " + s.id + " '" + s.name + "', size " + std::to_string(s.size) + ", " +
                words_for(s.content) + "\n";
    for (const Bitmap &b : bitmaps) {
        text += "bitmap '" + b.name.substr(0, 40) + "', flags " + hex(b.flags) +
                ", granularity bits " + std::to_string(b.granularity_bits) + ", " +
                std::to_string(b.bits.size()) + " bits, set:";
        for (std::uint64_t i = b.bits.next_set(0), n = 0; i < b.bits.size() && n < 20; ++n) {
            const std::uint64_t end = b.bits.next_clear(i);
            text += " " + std::to_string(i) + "-" + std::to_string(end - 1);
            i = b.bits.next_set(end);
        }
        text += "\n";
    }
    for (const Extension &e : extensions)
        text += "extension " + hex(static_cast<std::uint32_t>(e.type)) + ", " +
                std::to_string(e.data.size()) + " bytes, sum " +
                std::to_string(std::accumulate(e.data.begin(), e.data.end(), 0u)) + "\n";
    return text + "backing file '" + backing_file_name + "'\n";
}

Result<DiskState> state_of(const StoreImage &image, DiskOptions options)
{
    ImageView view(image);
    const auto disk = TRY(open_for_reading(view, options));
    DiskState state;
    state.size = disk->size();
    state.content = TRY(read_content(*disk));
    const ImageReader reader = TRY(ImageReader::open(view));
    for (const qcow2::Snapshot &snapshot :
         TRY(load_snapshots(view, reader.area().header)).snapshots) {
        DiskOptions of_snapshot = options;
        of_snapshot.snapshot = snapshot.id;
        const auto at = TRY(open_for_reading(view, of_snapshot));
        state.snapshots.push_back({snapshot.id, snapshot.name, at->size(), TRY(read_content(*at))});
    }
    state.bitmaps = TRY(read_bitmaps(reader));
    state.extensions = reader.area().extensions;
    std::erase_if(state.extensions, [](const Extension &e) {
        return e.type == ExtensionType::bitmaps || e.type == ExtensionType::feature_names;
    });
    state.backing_file_name = reader.area().backing_file_name;
    return state;
}

Structural::Structural(StoreImage image, Operation operation, DiskOptions options,
                       StoreOptions store)
    : image_(std::move(image)),
      operation_(std::move(operation)),
      options_(std::move(options)),
      store_options_(store)
{
    before_ = must(state_of(image_, options_));
    MemoryStore memory(image_, store_options_);
    const auto disk = must(Disk::open(memory, options_));
    must(operation_(*disk));
    must(disk->close());
    done_ = memory.image();
    after_ = must(state_of(done_, options_));
    ImageView view(done_);
    const CheckReport report = must(check(view));
    BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), report.text() << keep(done_, "done"));
}

std::string Structural::verdict(const StoreImage &image) const
{
    ImageView view(image);
    const auto report = check(view);
    if (!report)
        return report.error().what;
    if (!report->leaks_at_worst())
        return report->text();
    auto state = state_of(image, options_);
    if (!state)
        return state.error().what;
    if (*state == before_ || *state == after_)
        return {};
    return "neither before nor after:\n" + state->text() + "before:\n" + before_.text() +
           "after:\n" + after_.text();
}

// Where it has not happened, it can be done now; where it has, it may be
// refused.
void Structural::again(const StoreImage &image, const std::string &how) const
{
    MemoryStore memory(image, store_options_);
    const DiskState found = must(state_of(image, options_));
    const auto disk = must(Disk::open(memory, options_));
    const Result<void> done = operation_(*disk);
    must(disk->close());
    const DiskState state = must(state_of(memory.image(), options_));
    BOOST_REQUIRE_MESSAGE(done ? state == after_ || found != before_
                               : state == found && found != before_,
                          how << ", done again: " << words(done) << "\n"
                              << state.text());
}

std::uint64_t Structural::crash_at_every_event(Random &random) const
{
    constexpr std::uint64_t begin = 1;
    CrashStore store(Life::of(image_), store_options_);
    {
        const auto disk = must(Disk::open(store, options_));
        store.mark(begin);
        must(operation_(*disk));
        must(disk->close());
    }
    CrashWalk walk(store);
    std::set<std::uint64_t> seen;
    for (std::uint64_t event = 0; event <= walk.events(); ++event) {
        walk.advance_to(event);
        for (unsigned draw = 0; draw < 3 * crash_modes; ++draw) {
            const CrashMode mode = static_cast<CrashMode>(draw % crash_modes);
            if (draw >= crash_modes && (mode == CrashMode::none || mode == CrashMode::all))
                continue;
            const StoreImage image = walk.power_cut(random, mode);
            if (!seen.insert(fingerprint(image)).second)
                continue;
            const std::string how = "event " + std::to_string(event) + " of " +
                                    std::to_string(walk.events()) + ", mode " +
                                    std::to_string(static_cast<int>(mode));
            const std::string fault = verdict(image);
            BOOST_REQUIRE_MESSAGE(fault.empty(), fault << how << keep(image, "crashed")
                                                       << walk.recording().text());
            if (random.one_in(10))
                again(image, how);
        }
    }
    return seen.size();
}

std::uint64_t Structural::fail_at_every_io() const
{
    std::uint64_t trials = 0;
    for (const FaultKind &kind : fault_kinds)
        trials += for_each_fault(kind.fault, [&](FaultPlan &plan) {
            trial(plan, std::string(kind.name) + ", number " + std::to_string(plan.fault().nth));
        });
    return trials;
}

void Structural::trial(FaultPlan &plan, const std::string &how) const
{
    const Fault fault = plan.fault();
    plan.disarm();
    MemoryStore memory(image_, store_options_);
    FaultStore store(memory, plan);
    const auto disk = must(Disk::open(store, options_));
    plan.arm(fault);
    const Result<void> done = operation_(*disk);
    plan.disarm();

    const StoreImage image = memory.image();
    const std::string told = how + ": " + words(done) + "\n";
    const std::string fault_found = verdict(image);
    BOOST_REQUIRE_MESSAGE(fault_found.empty(), told << fault_found << keep(image, "faulted"));
    const DiskState found = must(state_of(image, options_));
    const auto content = read_content(*disk);
    const Result<void> written = disk->write(GuestOffset(0), Buffer(512, 0x5a), true);
    if (done)
        BOOST_REQUIRE_MESSAGE(found == after_, told << found.text());
    if (content)
        BOOST_REQUIRE_MESSAGE(*content == found.content || !written,
                              told << "other content is served");
    if (disk->why_read_only()) {  // opening anew met the fault
        BOOST_REQUIRE(!written);
        return;
    }
    if (!written) {
        const std::string &why = written.error().what;
        BOOST_REQUIRE_MESSAGE(why.find("nothing is written any more") != std::string::npos,
                              told << why);
        return;
    }
    // It serves on.
    BOOST_REQUIRE_MESSAGE(content && (done || found == before_), told << found.text());
    const Result<void> closed = disk->close();
    BOOST_REQUIRE_MESSAGE(closed, told << words(closed));
    const StoreImage later = memory.image();
    ImageView view(later);
    const CheckReport report = must(check(view));
    BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), told << report.text() << keep(later, "faulted"));
    DiskState served = must(state_of(later, options_));
    Buffer &first = served.content[0];
    BOOST_REQUIRE(first.size() >= 512 && first[0] == 0x5a && first[511] == 0x5a);
    first = {};
    DiskState expected = found;
    expected.content[0] = {};
    BOOST_REQUIRE_MESSAGE(served.bitmaps.size() == expected.bitmaps.size(), told << served.text());
    for (std::size_t i = 0; i < served.bitmaps.size(); ++i)
        if ((expected.bitmaps[i].flags & 3) == bitmap_flags::auto_)
            expected.bitmaps[i].bits.set(0);
    served.content.erase(0);
    expected.content.erase(0);
    BOOST_REQUIRE_MESSAGE(served == expected, told << served.text() << "expected:\n"
                                                   << expected.text());
}

}  // namespace qcow2::test
