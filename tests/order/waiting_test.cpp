// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What others wait for: what is written while the gate is closed, or by one change
// for many. It is counted, as time says little on a busy machine.

#include <boost/test/unit_test.hpp>

#include "core/bitmap/dirty_bits.h"
#include "tests/order/order.h"

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
            spec.bitmaps.push_back({.name = name, .granularity_bits = 12, .set = {}, .extra_data = {}});
        spec.bitmaps.push_back(
            {.name = "off", .granularity_bits = 12, .enabled = false, .set = {{2, 3}}, .extra_data = {}});
        return spec;
    }
    static DiskOptions options(std::uint64_t extra_bytes_max)
    {
        DiskOptions options;
        options.bitmap_sync = BitmapSync::durable;
        options.region_bytes = 256 << 10;
        options.extra_bytes_max = extra_bytes_max;
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
        for (const StoredBitmap &bitmap : look([](const ImageReader &reader) { return must(reader.bitmaps()); }))
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

}  // namespace

BOOST_AUTO_TEST_SUITE(order_waiting)

// Who changes one bitmap does not wait for what the others have to be written. They
// cover all changes meanwhile, and are exact when the disk is settled.
BOOST_AUTO_TEST_CASE(B8_a_change_of_one_bitmap_leaves_the_others_to_be_stored_later)
{
    const std::vector<std::pair<const char *, BitmapStep>> steps = {
        {"add", AddBitmap{{.name = "new"}}},     {"clear", ClearBitmap{"b0"}},
        {"enable", EnableBitmap{"off"}},         {"disable", DisableBitmap{"b0"}},
        {"remove", RemoveBitmap{"b0"}},          {"merge", MergeBitmaps{"off", {"b0"}}},
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
        if (step.index() == BitmapStep(DisableBitmap()).index() || step.index() == BitmapStep(MergeBitmaps()).index())
            BOOST_TEST(order.bitmap("b0").bits.count() == pages);
        if (step.index() == BitmapStep(MergeBitmaps()).index())
            BOOST_TEST(order.bitmap("off").bits.count() == pages + 1);
        order.change(77);
        must(order.disk().settle());
        for (const char *name : {"b1", "b2"})
            BOOST_TEST(order.bitmap(name).bits.count() == pages + 1);
        must(order.disk().close());
        BOOST_TEST(order.look([](const ImageReader &reader) { return must(reader.bitmaps()).size(); }) >= 3u);
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

BOOST_AUTO_TEST_SUITE_END()
