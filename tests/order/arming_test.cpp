// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// How an arming goes page by page, where there are many bitmaps and many pages.

#include "tests/order/durable.h"
#include "tests/support/counting_store.h"
#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_durable)

namespace {

constexpr std::uint64_t small = 512;  // bytes of a cluster, and of a granule
// So many that their writes do not all wait in memory (ArmingWrites).
const std::vector<std::string> fine = {"a", "b", "c", "d", "e", "f", "g", "h", "i",
                                       "j", "k", "l", "m", "n", "o", "p", "q"};

// Not a free cluster. There is room for the bits of the fine bitmaps, four clusters each, and
// not for those of "coarse", which comes after them.
ImageSpec full_spec()
{
    ImageSpec spec = durable_spec();
    spec.cluster_bits = 9;
    spec.clusters.emplace(5, Preset::data);
    for (const std::string &name : fine)
        spec.bitmaps.insert(spec.bitmaps.begin(),
                            {.name = name,
                             .granularity_bits = 9,
                             .set = {{1000, 1001}, {5000, 5001}, {9000, 9001}, {13000, 13001}},
                             .extra_data = {}});
    return spec;
}

DiskOptions armed_whole()
{
    DiskOptions options = Durable::options();
    options.arming.region_bytes = full_spec().size;
    return options;
}

// A write has been refused there; by then bits of the fine ones were in the file.
class Refused : public Durable {
public:
    Refused()
        : Durable(full_spec(),
                  {.can_grow = false, .size_limit = build_image(full_spec()).image.size},
                  armed_whole())
    {
        const auto refused = disk().write(GuestOffset(50 * small), Buffer(small, 1), false);
        BOOST_REQUIRE((!refused && refused.error().code == Errc::no_space));
        for (const std::string &name : fine)
            BOOST_TEST(bitmap(name).bits.count() == 4 * 4096u);
        BOOST_TEST(!bitmap("coarse").entry.in_use());
    }
};

}  // namespace

BOOST_AUTO_TEST_CASE(B2_what_was_armed_before_there_was_no_room_is_not_believed)
{
    Refused order;
    // Another granule of the region: it has to be armed all the same.
    const HostOffset host = order.host_of(5);
    order.store().forget();
    order.write(5, 1);
    const Recording recording = order.recording();
    const std::size_t change = recording.find(0, [&](const Operation &operation) {
        return operation.writes() && operation.range().overlaps(Range::of(host.value, small));
    });
    BOOST_REQUIRE(change < recording.operations.size());
    for (const std::string &name : fine) {
        const std::size_t set = find_bit(recording, order.place(name, 5 * small), 5);
        BOOST_REQUIRE_MESSAGE(set < change, name << "\n" << recording.text());
        BOOST_TEST(
            recording.is_durable(recording.operations[set], recording.operations[change].begun),
            recording.text());
    }
}

BOOST_AUTO_TEST_CASE(B8_what_was_armed_before_there_was_no_room_goes_again)
{
    Refused order;
    must(order.disk().settle());
    for (const std::string &name : fine) {
        // (The bit of the change that was refused may stay.)
        BOOST_TEST(order.bitmap(name).bits.count() - order.bitmap(name).bits.test(50) == 4u);
        BOOST_TEST(order.bitmap(name).bits.test(13000));
    }
}

// A guest that writes all over 64 GiB, each time elsewhere: 32 pages of bits, and no page waits
// more than five times, for it is armed ever wider.
BOOST_AUTO_TEST_CASE(B2_scattered_first_touches_wait_some_five_times_for_a_page)
{
    ImageSpec spec = durable_spec();
    spec.cluster_bits = 16;
    spec.size = std::uint64_t(64) << 30;
    spec.clusters.clear();
    spec.bitmaps = {{.name = "b", .granularity_bits = 16, .set = {{0, 1}}, .extra_data = {}}};
    DiskOptions options;
    options.bitmap_sync = BitmapSync::durable;
    CountingStore store(build_image(spec).image);
    const auto disk = must(Disk::open(store, options));
    must(disk->begin_writing());
    must(disk->trim(GuestOffset(spec.size / 2), 1 << 16, false));  // both clusters are there
    Random random(7);
    store.forget();
    for (int i = 0; i < 1024; ++i)
        must(disk->trim(GuestOffset(random.below(spec.size >> 16) << 16), 1 << 16, false));
    BOOST_TEST_MESSAGE(store.flushes << " barriers");
    BOOST_TEST(store.flushes <= 32 * 5 + 5u);
    BOOST_TEST(store.flushes > 32u);
    must(disk->close());
}

// A guest has written all over a disk, so that the bound did not hold, and has ceased. Then each
// arming takes out 64 pages at most: a change waits for it.
BOOST_AUTO_TEST_CASE(B2_what_is_beyond_the_bound_goes_64_pages_at_a_time)
{
    constexpr std::uint64_t pages = 256, others = 4, used = pages - others;
    constexpr std::uint64_t page_bytes = DirtyBits::page_bits * cs;
    ImageSpec spec = durable_spec();
    spec.size = pages * page_bytes;
    spec.clusters.clear();
    spec.bitmaps = {{.name = "b", .granularity_bits = 12, .set = {}, .extra_data = {}}};
    DiskOptions options = Durable::options();
    options.arming.region_bytes = page_bytes;
    options.arming.extra_bytes_max = 8 * page_bytes;
    options.arming.armings_all_over = 100;
    Durable order(spec, {}, options);
    // Trims of what is not allocated, each of another granule: all that is written is bits.
    std::uint64_t changes = 0;
    const auto change = [&](std::uint64_t page) {
        const std::uint64_t granule = page * DirtyBits::page_bits + changes++ % 100;
        must(order.disk().trim(GuestOffset(granule * cs), cs, false));
    };
    const auto change_used = [&] {
        for (std::uint64_t page = 0; page < used; ++page)
            change(page);
    };
    const auto extra_pages = [&] {
        return order.bitmap("b").bits.count() / (DirtyBits::page_bits - 1);
    };
    for (int i = 0; i < 2; ++i)
        change_used();
    BOOST_TEST(extra_pages() == used);
    // All of it is in use while half of the armings are forgotten, and half of these.
    for (int i = 0; i < 2; ++i) {
        change_used();
        must(order.disk().cool());
    }
    BOOST_TEST(extra_pages() == used);

    // The first of these armings take 64 each, and the last what is left beyond the bound.
    std::uint64_t left = used;
    for (std::uint64_t page = used; page < pages; ++page) {
        change(page);
        left = std::max<std::uint64_t>(left + 1 - 64, 8);
        BOOST_TEST(extra_pages() >= left);
        BOOST_TEST(extra_pages() <= left + 1);  // (one bit of each page is no extra)
    }
    BOOST_TEST(left == 8u);
}

BOOST_AUTO_TEST_SUITE_END()
