// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if there is no memory for the n-th thing? The request ends with an
// exception, which the callback of the filter turns into an error. Afterwards
// the disk serves on: nobody waits for ever, nothing that was written before is
// lost, and the file is sound.

#include <boost/test/unit_test.hpp>

#include <functional>
#include <new>
#include <utility>

#include "core/check/check.h"
#include "core/disk.h"
#include "core/structure/operations.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/scarce_memory.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(memory_fault)

namespace {

// The store is not what is tried.
class Spared final : public ByteStore {
public:
    explicit Spared(ByteStore &base) : base_(base) {}
    std::uint64_t size() const override { return base_.size(); }
    std::uint64_t fresh_from() const override { return base_.fresh_from(); }
    Result<void> read(std::uint64_t o, MutableBytes b) override
    {
        return spared([&] { return base_.read(o, b); });
    }
    Result<void> write(std::uint64_t o, Bytes b) override
    {
        return spared([&] { return base_.write(o, b); });
    }
    Result<void> zero(std::uint64_t o, std::uint64_t n, bool u) override
    {
        return spared([&] { return base_.zero(o, n, u); });
    }
    Result<void> discard(std::uint64_t o, std::uint64_t n) override
    {
        return spared([&] { return base_.discard(o, n); });
    }
    Result<void> flush() override
    {
        return spared([&] { return base_.flush(); });
    }
    bool can_flush() const override { return true; }
    Result<void> grow(std::uint64_t n) override
    {
        return spared([&] { return base_.grow(n); });
    }
    bool can_grow() const override { return true; }
    Result<void> cut(std::uint64_t n) override
    {
        return spared([&] { return base_.cut(n); });
    }
    bool read_only() const override { return false; }

private:
    // One thing there must be memory for, as in any layer.
    template <class Call>
    Result<void> spared(Call call)
    {
        if (no_memory())
            throw std::bad_alloc();
        const std::uint64_t left = std::exchange(memory_left, 0);
        Result<void> result = call();
        memory_left = left;
        return result;
    }

    ByteStore &base_;
};

constexpr std::uint32_t cluster_bits = 10;
constexpr std::uint64_t cs = 1 << cluster_bits;

ImageSpec memory_spec()
{
    ImageSpec spec;
    spec.cluster_bits = cluster_bits;
    spec.size = 512 * cs;
    spec.clusters = {{0, Preset::data}, {1, Preset::shared_data}};
    spec.bitmaps = {{.name = "b0", .granularity_bits = 10, .set = {{7, 9}}, .extra_data = {}}};
    return spec;
}

Buffer content(Disk &disk, std::uint64_t cluster)
{
    Buffer bytes(cs);
    must(disk.read(GuestOffset(cluster * cs), bytes));
    return bytes;
}

// What is done before, and how the disk is opened.
struct Before {
    DiskOptions options = {};
    std::function<void(Disk &)> done = [](Disk &) {};
    bool begun = true;  // the disk has been written to
    bool ends = false;  // it is not used any more
};

// Like the server, where nothing can be done with the one there was.
std::unique_ptr<Disk> opened(ByteStore &store, const DiskOptions &options)
{
    auto disk = must(Disk::open(store, options));
    must(disk->begin_writing());
    return disk;
}

Buffer everything(Disk &disk)
{
    Buffer bytes(disk.size());
    must(disk.read(GuestOffset(0), bytes));
    return bytes;
}

// No bitmap has missed what was written after all else.
void expect_bits(ByteStore &store)
{
    constexpr Range written{301 * cs, 306 * cs};
    for (const auto &bitmap : must(must(ImageReader::open(store)).bitmaps()))
        if (bitmap.entry.enabled() && !bitmap.entry.in_use())
            BOOST_REQUIRE_MESSAGE(bitmap.bits.all(written.touched(bitmap.entry.granularity())),
                                  "bitmap " << bitmap.entry.name << " has missed a change");
}

// Without memory for the first thing, the second, ..., until there is enough. After
// that the request is repeated, and clusters are taken, but no L2 table is made: that
// would write the L1 table anew. (With QCOW2_EVERY some are left out; fewer than elsewhere, for
// each is a way of its own out of the engine.)
void for_each_shortage(const std::function<Result<void>(Disk &)> &request, Before before = {})
{
    before.options.arming.region_bytes = 4 * cs;
    const std::uint64_t step = (every() + 1) / 2;
    for (std::uint64_t nth = 1; nth < 20000; nth += step) {
        BOOST_TEST_INFO_SCOPE("no memory for thing " << nth);
        MemoryStore memory(build_image(memory_spec()).image, {.growth_step = 4096});
        Spared store(memory);
        auto disk = must(Disk::open(store, before.options));
        if (before.begun) {
            must(disk->begin_writing());
            must(disk->write(GuestOffset(300 * cs), Buffer(cs, 5), true));
            before.done(*disk);
        }

        bool ran_out = false;
        memory_left = nth;
        try {
            const Result<void> ignored = request(*disk);
        } catch (const std::bad_alloc &) {
            ran_out = true;
        }
        ran_out |= std::exchange(memory_left, 0) == 0;

        if (before.ends || disk->failed()) {
            disk.reset();
            disk = opened(store, before.options);
        }
        if (!before.ends)
            if (const auto again = request(*disk); !again)  // it was done the first time
                BOOST_REQUIRE_MESSAGE(again.error().code == Errc::exists ||
                                          again.error().code == Errc::not_found,
                                      words(again));
        for (const std::uint64_t cluster : {301, 302, 303, 304, 305})
            must(disk->write(GuestOffset(cluster * cs), Buffer(cs, 6), true));
        if (before.begun)
            BOOST_REQUIRE((content(*disk, 300) == Buffer(cs, 5)));
        const Buffer all = everything(*disk);
        must(disk->close());
        disk.reset();
        const CheckReport report = must(check(memory));
        BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), report.text());
        expect_bits(memory);
        disk = must(Disk::open(memory, {}));
        BOOST_REQUIRE((everything(*disk) == all));
        if (!ran_out) {
            BOOST_TEST_MESSAGE(nth - 1 << " things");
            BOOST_TEST(nth > 1u);
            return;
        }
    }
    BOOST_TEST(false, "it never ends");
}

}  // namespace

// Reads an L2 table.
BOOST_AUTO_TEST_CASE(reading)
{
    for_each_shortage([](Disk &disk) {
        Buffer bytes(4 * cs);
        return disk.read(GuestOffset(0), bytes);
    });
}

BOOST_AUTO_TEST_CASE(flushing)
{
    for_each_shortage([](Disk &disk) { return disk.flush(); });
}

// Arms a region of the bitmap.
BOOST_AUTO_TEST_CASE(overwriting)
{
    for_each_shortage([](Disk &disk) { return disk.write(GuestOffset(0), Buffer(cs, 1), false); });
}

// Takes a cluster, and arms another region.
BOOST_AUTO_TEST_CASE(writing_what_is_new)
{
    for_each_shortage(
        [](Disk &disk) { return disk.write(GuestOffset(200 * cs), Buffer(cs, 1), false); });
}

// The table of what is new, and the bits.
BOOST_AUTO_TEST_CASE(settling)
{
    for_each_shortage([](Disk &disk) { return disk.settle(); }, {.done = [](Disk &disk) {
                          must(disk.write(GuestOffset(200 * cs), Buffer(cs, 1), false));
                      }});
}

BOOST_AUTO_TEST_CASE(cooling)
{
    for_each_shortage(
        [](Disk &disk) -> Result<void> {
            TRY(disk.cool());
            return disk.cool();
        },
        {.done = [](Disk &disk) {
            must(disk.write(GuestOffset(200 * cs), Buffer(cs, 1), false));
        }});
}

BOOST_AUTO_TEST_CASE(closing)
{
    for_each_shortage([](Disk &disk) { return disk.close(); }, {.ends = true});
}

// Resizes, and makes a bitmap.
BOOST_AUTO_TEST_CASE(beginning)
{
    DiskOptions options;
    options.bitmaps = {"made"};
    options.size_min = 600 * cs;
    for_each_shortage([](Disk &disk) { return disk.begin_writing(); },
                      {.options = options, .begun = false});
}

BOOST_AUTO_TEST_CASE(resizing)
{
    for (const std::uint64_t size : {1024 * cs, 401 * cs + 512})
        for_each_shortage([size](Disk &disk) { return disk.resize(size); });
}

BOOST_AUTO_TEST_CASE(making_a_snapshot)
{
    for_each_shortage([](Disk &disk) { return disk.create_snapshot({"x", 0, 0}); });
}

BOOST_AUTO_TEST_CASE(deleting_a_snapshot)
{
    for_each_shortage([](Disk &disk) { return disk.delete_snapshot("x"); },
                      {.done = [](Disk &disk) {
                          must(disk.create_snapshot({"x", 0, 0}));
                      }});
}

BOOST_AUTO_TEST_CASE(switching_to_a_snapshot)
{
    for_each_shortage([](Disk &disk) { return disk.revert("x"); }, {.done = [](Disk &disk) {
                          must(disk.create_snapshot({"x", 0, 0}));
                          must(disk.write(GuestOffset(301 * cs), Buffer(cs, 7), false));
                      }});
}

BOOST_AUTO_TEST_CASE(C9_changing_bitmaps)
{
    const std::vector<std::vector<DiskStep>> all = {
        {BitmapStep(AddBitmap{{.name = "new"}})},
        {BitmapStep(RemoveBitmap{"off"})},
        {BitmapStep(DisableBitmap{"b0"})},
        {BitmapStep(AddBitmap{{.name = "new"}}), BitmapStep(MergeBitmaps{"new", {"b0"}}),
         BitmapStep(ClearBitmap{"b0"}), BitmapStep(EnableBitmap{"off"})},
        {BitmapStep(AddBitmap{{.name = "new"}}), MakeSnapshot{{"x", 0, 0}},
         BitmapStep(ClearBitmap{"b0"})},
    };
    for (const std::vector<DiskStep> &steps : all)
        for_each_shortage(
            [&](Disk &disk) -> Result<void> {
                TRY(disk.change_together(steps));
                return {};
            },
            {.done = [](Disk &disk) {
                must(disk.restructure([](Image &i) {
                    return add_bitmaps(i,
                                       {{.name = "off", .granularity_bits = 11, .enabled = false}});
                }));
            }});
}

BOOST_AUTO_TEST_SUITE_END()
