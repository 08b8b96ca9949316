// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What others wait for: what is written while the gate is closed, or by one change
// for many. It is counted, as time says little on a busy machine.

#include <boost/test/unit_test.hpp>

#include <thread>

#include "core/bitmap/dirty_bits.h"
#include "tests/order/order.h"
#include "tests/support/held_store.h"
#include "tests/support/waiting_thread.h"

using namespace qcow2;
using namespace qcow2::test;

namespace {

constexpr std::uint64_t cs = 4096;
constexpr std::uint64_t pages = 8;
constexpr std::uint64_t disk_size = pages * DirtyBits::page_bits * cs;

// Bitmaps of eight pages, which small regions fill slowly.
class Waiting : public Order {
public:
    explicit Waiting(std::uint64_t extra_bytes_max = ~std::uint64_t(0))
        : Order(spec(), {}, options(extra_bytes_max))
    {
        must(disk().begin_writing());
    }

    static ImageSpec spec()
    {
        ImageSpec spec;
        spec.cluster_bits = 12;
        spec.size = disk_size;
        for (const char *name : {"b0", "b1", "b2"})
            spec.bitmaps.push_back(
                {.name = name, .granularity_bits = 12, .set = {}, .extra_data = {}});
        spec.bitmaps.push_back({.name = "off",
                                .granularity_bits = 12,
                                .enabled = false,
                                .set = {{2, 3}},
                                .extra_data = {}});
        return spec;
    }
    static DiskOptions options(std::uint64_t extra_bytes_max)
    {
        DiskOptions options;
        options.bitmap_sync = BitmapSync::durable;
        options.arming.region_bytes = 256 << 10;
        options.arming.extra_bytes_max = extra_bytes_max;
        return options;
    }

    // In each page of the bitmaps.
    void write_all_over()
    {
        for (std::uint64_t page = 0; page < pages; ++page)
            change(page * DirtyBits::page_bits + 5);
    }
    void change(std::uint64_t granule)
    {
        must(disk().write(GuestOffset(granule * cs), Buffer(512, 1), false));
    }
    StoredBitmap bitmap(const std::string &name) const
    {
        for (const StoredBitmap &bitmap :
             look([](const ImageReader &reader) { return must(reader.bitmaps()); }))
            if (bitmap.entry.name == name)
                return bitmap;
        throw std::out_of_range(name);
    }
    // How often something was written into the bits of these.
    std::size_t writes_into(const std::vector<std::string> &names) const
    {
        std::size_t writes = 0;
        const Recording recording = this->recording();
        for (const std::string &name : names)
            for (const BitmapTableEntry &entry : bitmap(name).table)
                for (const Operation &operation : recording.operations)
                    writes += entry.has_cluster() && operation.writes() &&
                              operation.range().overlaps(Range::of(entry.data.value, cs));
        return writes;
    }
};

// A disk with one bitmap over such a store. All clusters of the bitmap are there, and in each
// of its pages something is armed.
class Held {
public:
    Held(std::uint64_t pages, std::uint64_t extra_bytes_max)
        : pages(pages),
          built_(build_image(spec(pages))),
          store(built_.image, durable_alone()),
          disk(must(Disk::open(store, Waiting::options(extra_bytes_max))))
    {
        must(disk->begin_writing());
        for (std::uint64_t page = 0; page < pages; ++page)
            change(page * DirtyBits::page_bits + 5);
        const StoreImage image = store.image();
        ImageView view(image);
        const ImageReader reader = must(ImageReader::open(view));
        const StoredBitmap bitmap = must(reader.bitmaps()).front();
        for (const BitmapTableEntry &entry : bitmap.table)
            clusters_.push_back(entry.data.value);
    }

    void change(std::uint64_t granule)
    {
        must(disk->write(GuestOffset(granule * cs), Buffer(512, 1), false));
    }
    bool is_in_bitmap(std::uint64_t offset) const
    {
        return std::ranges::find(clusters_, align_down(offset, cs)) != clusters_.end();
    }

    static StoreOptions durable_alone()
    {
        StoreOptions options;
        options.durable_alone = true;
        return options;
    }
    static ImageSpec spec(std::uint64_t pages)
    {
        ImageSpec spec;
        spec.cluster_bits = 12;
        spec.size = pages * DirtyBits::page_bits * cs;
        spec.bitmaps = {{.name = "b", .granularity_bits = 12, .set = {}, .extra_data = {}}};
        return spec;
    }

    const std::uint64_t pages;

private:
    const BuiltImage built_;

public:
    HeldStore store;
    std::unique_ptr<Disk> disk;

private:
    std::vector<std::uint64_t> clusters_;
};

// One thread cools a bitmap of 64 pages. When it is about to write the first of them, another
// one begins with its work; it has come to where it waits when the first one goes on. Returns
// how many pages were cooled before the write by which the other one is known.
std::uint64_t cooled_before(
    const std::function<bool(const Held &, std::uint64_t offset, bool durable)> &is_others,
    const std::function<void(Held &)> &work)
{
    constexpr std::uint64_t pages = 64;
    Held held(pages, ~std::uint64_t(0));
    must(held.disk->cool());  // what was used since the last time stays: all
    std::atomic<std::uint64_t> cooled = 0, before = pages;
    std::atomic<bool> has_begun = false, may_go = false;
    held.store.before_write = [&](std::uint64_t offset, bool durable) {
        if (is_others(held, offset, durable))
            before = cooled.load();
        if (durable || !held.is_in_bitmap(offset))
            return;
        ++cooled;
        has_begun = true;
        wait_for(may_go);
    };
    std::thread cools([&] { must(held.disk->cool()); });
    wait_for(has_begun);
    WaitingThread other([&] { work(held); });
    other.wait_until_asleep();
    may_go = true;
    other.join();
    cools.join();
    BOOST_TEST(cooled == pages);
    return before;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(order_waiting)

// Who changes one bitmap does not wait for what the others have to be written. They
// cover all changes meanwhile, and are exact when the disk is settled.
BOOST_AUTO_TEST_CASE(B8_a_change_of_one_bitmap_leaves_the_others_to_be_stored_later)
{
    const std::vector<std::pair<const char *, BitmapStep>> steps = {
        {"add", AddBitmap{{.name = "new"}}}, {"clear", ClearBitmap{"b0"}},
        {"enable", EnableBitmap{"off"}},     {"disable", DisableBitmap{"b0"}},
        {"remove", RemoveBitmap{"b0"}},      {"merge", MergeBitmaps{"off", {"b0"}}},
    };
    for (const auto &[what, step] : steps) {
        BOOST_TEST_INFO_SCOPE(what);
        Waiting order;
        order.write_all_over();
        order.store().forget();
        must(order.disk().change_together({step}));
        BOOST_TEST(order.writes_into({"b1", "b2"}) == 0u);
        BOOST_TEST(order.bitmap("b1").bits.count() > pages);
        for (const char *name : {"b1", "b2"})
            for (std::uint64_t page = 0; page < pages; ++page)
                BOOST_TEST(order.bitmap(name).bits.test(page * DirtyBits::page_bits + 5));
        // What the step says, or has read, is exact.
        if (step.index() == BitmapStep(DisableBitmap()).index() ||
            step.index() == BitmapStep(MergeBitmaps()).index())
            BOOST_TEST(order.bitmap("b0").bits.count() == pages);
        if (step.index() == BitmapStep(MergeBitmaps()).index())
            BOOST_TEST(order.bitmap("off").bits.count() == pages + 1);
        order.change(77);
        must(order.disk().settle());
        for (const char *name : {"b1", "b2"})
            BOOST_TEST(order.bitmap(name).bits.count() == pages + 1);
        must(order.disk().close());
        BOOST_TEST(order.look([](const ImageReader &reader) {
            return must(reader.bitmaps()).size();
        }) >= 3u);
    }
}

// What is too much is taken out page by page: one arming writes little more than its own.
BOOST_AUTO_TEST_CASE(B2_to_keep_the_bound_costs_one_change_a_few_writes)
{
    Waiting order(8 << 20);
    std::size_t most = 0;
    for (std::uint64_t i = 0; i < 400; ++i) {
        order.store().forget();
        order.change(i * 9973 % (disk_size / cs));
        most = std::max(most, order.writes_into({"b0"}));
    }
    BOOST_TEST(most > 0u);
    BOOST_TEST(most <= 5u);
}

// Two wait for one barrier. When it has come the one who leads takes out what is too much,
// and the other one goes on.
BOOST_AUTO_TEST_CASE(B2_to_keep_the_bound_nobody_waits_but_who_does_it)
{
    Held held(3, 1);
    std::atomic<std::thread::id> first;
    std::atomic<bool> first_waits = false, first_may_go = false, others_may_cool = false;
    std::atomic<int> changed = 0;
    held.store.before_write = [&](std::uint64_t offset, bool durable) {
        if (!held.is_in_bitmap(offset))
            return;
        if (std::this_thread::get_id() == first.load()) {
            first_waits = durable;
            if (durable)
                wait_for(first_may_go);
        } else if (!durable) {
            wait_for(others_may_cool);
        }
    };
    const auto change = [&](std::uint64_t granule) {
        held.change(granule);
        ++changed;
    };
    std::thread one([&] {
        first = std::this_thread::get_id();
        change(10000);
    });
    // They come while a batch is under way, and so are one.
    wait_for(first_waits);
    WaitingThread two([&] { change(DirtyBits::page_bits + 10000); });
    WaitingThread three([&] { change(DirtyBits::page_bits + 20000); });
    two.wait_until_asleep();
    three.wait_until_asleep();
    first_may_go = true;
    BOOST_TEST(comes_true([&] { return changed == 2; }));
    BOOST_TEST(changed == 2);
    others_may_cool = true;
    one.join();
    two.join();
    three.join();
    BOOST_TEST(changed == 3);
}

// To cool a large bitmap takes long. Who wants to arm meanwhile waits for a few pages of it.
BOOST_AUTO_TEST_CASE(B2_who_cools_lets_others_arm)
{
    const auto arms = [](const Held &held, std::uint64_t offset, bool durable) {
        return durable && held.is_in_bitmap(offset);
    };
    BOOST_TEST(cooled_before(arms, [](Held &held) { held.change(10000); }) <= 8u);
}

// Nor does who changes the structure wait for more, and with him all requests that come then.
BOOST_AUTO_TEST_CASE(L1_who_cools_lets_others_close_the_gate)
{
    const auto commits = [](const Held &, std::uint64_t offset, bool) { return offset == 0; };
    const auto add = [](Held &held) {
        must(held.disk->change_together({AddBitmap{{.name = "new"}}}));
    };
    BOOST_TEST(cooled_before(commits, add) <= 8u);
}

BOOST_AUTO_TEST_SUITE_END()
