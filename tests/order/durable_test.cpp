// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Rules B as bitmap-sync=durable needs them.

#include "tests/order/durable.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_durable)

BOOST_AUTO_TEST_CASE(B2_bits_are_durable_before_the_change_goes_down)
{
    for (const bool alone : {false, true})
        for (const auto &[what, request] : requests) {
            BOOST_TEST_INFO_SCOPE(what);
            Durable order(durable_spec(), {.durable_alone = alone});
            const HostOffset host = order.host_of(0), l2 = order.l2_place(0);
            request(order);
            must(order.disk().flush());
            const Recording recording = order.recording();
            const std::size_t change = find_change(recording, host, l2);
            BOOST_REQUIRE_MESSAGE(change < recording.operations.size(), recording.text());
            const std::uint64_t begun = recording.operations[change].begun;
            for (const char *name : {"fine", "coarse"}) {
                const std::size_t set = find_bit(recording, order.place(name, 0), 0);
                BOOST_REQUIRE_MESSAGE(set < change, name << "\n" << recording.text());
                BOOST_TEST(recording.is_durable(recording.operations[set], begun),
                           recording.text());
            }
        }
}

// Two barriers: what is in it, then its name.
BOOST_AUTO_TEST_CASE(B2_a_new_cluster_is_durable_before_the_table_names_it)
{
    for (const bool alone : {false, true}) {
        Durable order(durable_spec(), {.durable_alone = alone});
        const HostOffset host = order.host_of(0), l2 = order.l2_place(0);
        order.write(0, 7);
        const Recording recording = order.recording();
        const StoredBitmap coarse = order.bitmap("coarse");
        const HostOffset data = coarse.table.at(0).data;
        const std::size_t named = find_word(recording, 0, coarse.entry.bitmap_table_offset, 8,
                                            [&](std::uint64_t word) { return word == data.value; });
        BOOST_REQUIRE(named < recording.operations.size());
        const Operation &naming = recording.operations[named];
        BOOST_TEST(durably_written(recording, Range::of(data.value, cs), naming.begun),
                   recording.text());
        const std::size_t counted = find_word(recording, 0, order.refcount_place(data), 2,
                                              [](std::uint64_t word) { return word == 1; });
        BOOST_REQUIRE(counted < recording.operations.size());
        BOOST_TEST(recording.is_durable(recording.operations[counted], naming.begun));
        const std::size_t change = find_change(recording, host, l2);
        BOOST_TEST(recording.is_durable(naming, recording.operations[change].begun),
                   recording.text());
    }
}

// A barrier for a region, not for each granule; and none for the second touch.
BOOST_AUTO_TEST_CASE(B2_who_touches_an_armed_region_waits_for_nothing)
{
    Durable order;
    order.write(0, 1);
    order.store().forget();
    order.write(0, 2);
    order.write(1, 3);
    const Recording recording = order.recording();
    BOOST_TEST(recording.operations.size() == 2u, recording.text());
}

BOOST_AUTO_TEST_CASE(B2_no_change_goes_down_if_its_bits_cannot_be_made_durable)
{
    for (const unsigned kind : {Fault::writes, Fault::flushes}) {
        Durable order;
        const HostOffset host = order.host_of(0), l2 = order.l2_place(0);
        order.plan().arm({.kinds = kind, .forever = true});
        BOOST_TEST(!order.disk().write(GuestOffset(0), Buffer(cs, 9), false));
        const Recording recording = order.recording();
        BOOST_TEST(find_change(recording, host, l2) == recording.operations.size(),
                   recording.text());
        order.plan().disarm();
        // Nothing is believed after a failed flush; a failed write is tried again.
        const Result<void> again = order.disk().write(GuestOffset(0), Buffer(cs, 9), false);
        BOOST_TEST(again.has_value() == (kind == Fault::writes));
    }
}

// The bit was set in memory before it was tried. What did not go down may be
// reported, too much is no lie; but the next one must not believe it.
BOOST_AUTO_TEST_CASE(B2_armed_is_believed_only_after_the_barrier)
{
    unsigned failed = 0;
    for (std::uint64_t nth = 1; nth < 12; ++nth) {
        BOOST_TEST_INFO_SCOPE("write " << nth << " fails");
        Durable order;
        const HostOffset host = order.host_of(0), l2 = order.l2_place(0);
        order.plan().arm({.kinds = Fault::writes, .nth = nth});
        if (order.disk().write(GuestOffset(0), Buffer(cs, 9), false))
            continue;
        if (find_change(order.recording(), host, l2) < order.recording().operations.size())
            continue;  // it was the change itself that failed
        ++failed;
        order.write(0, 9);
        const Recording recording = order.recording();
        const std::size_t change = find_change(recording, host, l2);
        BOOST_REQUIRE(change < recording.operations.size());
        for (const char *name : {"fine", "coarse"}) {
            const HostOffset place = order.place(name, 0);
            BOOST_TEST(std::any_of(recording.operations.begin(), recording.operations.end(),
                                   [&](const Operation &operation) {
                                       return has_bit(operation, place, 0) &&
                                              recording.is_durable(
                                                  operation, recording.operations[change].begun);
                                   }),
                       name << "\n"
                            << recording.text());
        }
    }
    BOOST_TEST(failed > 0u);
}

// Arming another region of the same sector, and cooling, must leave alone what
// somebody may be relying on.
BOOST_AUTO_TEST_CASE(B3_a_write_of_a_sector_has_all_bits_that_are_relied_on)
{
    Durable order;
    const auto bit_of = [&](std::uint64_t cluster) {
        return order.bitmap("fine").bits.test(cluster);
    };
    order.write(0, 1);
    order.write(512, 1);  // far away
    BOOST_TEST(bit_of(0));
    BOOST_TEST(bit_of(1));  // armed with it
    BOOST_TEST(bit_of(512));
    BOOST_TEST(bit_of(513));
    must(order.disk().cool());  // both were used
    BOOST_TEST(bit_of(1));
    order.write(513, 1);
    must(order.disk().cool());
    BOOST_TEST(bit_of(0));
    BOOST_TEST(!bit_of(1));  // cold now
    BOOST_TEST(!bit_of(63));
    BOOST_TEST(bit_of(512));
    BOOST_TEST(bit_of(513));
    BOOST_TEST(bit_of(514));
    BOOST_TEST(bit_of(1000));  // from the beginning
    // And it needs arming again.
    order.store().forget();
    order.write(1, 1);
    const Recording recording = order.recording();
    const std::size_t set = find_bit(recording, order.place("fine", cs), 1);
    BOOST_REQUIRE(set < recording.operations.size());
    BOOST_TEST(recording.is_durable(recording.operations[set], recording.operations.back().begun));
    BOOST_TEST(bit_of(514));
}

BOOST_AUTO_TEST_CASE(B3_of_one_sector_at_most_one_write_is_in_flight)
{
    Durable order;
    order.store().stir(7);
    const HostOffset fine = order.place("fine", 0);
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (unsigned i = 0; i < 30; ++i) {
                must(order.disk().write(GuestOffset((t * 500 + i * 16) * cs), Buffer(512, 1),
                                        false));
                if (i % 7 == t)
                    must(order.disk().cool());
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    const Recording recording = order.recording();
    std::uint64_t returned = 0;
    std::size_t seen = 0;
    for (const Operation &operation : recording.operations) {
        if (!operation.writes() || !operation.range().overlaps(Range::of(fine.value, 512)))
            continue;
        ++seen;
        BOOST_TEST(operation.begun >= returned, to_string(operation));
        returned = operation.returned;
    }
    BOOST_TEST(seen > 4u);
}

// Writes all over a disk whose bitmap fills several pages: whatever is armed and
// not changed stays within the bound, and what was changed stays set.
BOOST_AUTO_TEST_CASE(B2_what_is_armed_is_bounded)
{
    ImageSpec spec = order_spec();
    spec.size = 1 << 30;
    spec.bitmaps = {{.name = "fine", .granularity_bits = 12, .set = {}, .extra_data = {}}};
    DiskOptions options = Durable::options();
    options.arming.extra_bytes_max = 8 << 20;
    Durable order(spec, {}, options);
    std::vector<std::uint64_t> written;
    for (std::uint64_t i = 0; i < 400; ++i) {
        written.push_back(i * 9973 % (spec.size / cs));
        must(order.disk().write(GuestOffset(written.back() * cs), Buffer(512, 1), false));
        if (i % 50 != 49)
            continue;
        const StoredBitmap bitmap = order.bitmap("fine");
        // The page that was just armed is spared.
        BOOST_TEST((bitmap.bits.count() - written.size()) * cs <=
                   options.arming.extra_bytes_max + DirtyBits::page_bits * cs);
        for (const std::uint64_t cluster : written)
            BOOST_TEST(bitmap.bits.test(cluster));
    }
}

std::uint64_t count_writes(const Recording &recording)
{
    return std::ranges::count_if(recording.operations,
                                 [](const Operation &operation) { return operation.writes(); });
}

// A guest that writes all over a disk with many pages of bits waits once for 64 of them, in the
// end, though no two of its writes come near each other. The bound does not hold meanwhile; when
// the guest has ceased all is taken out again, and the bound holds as before.
BOOST_AUTO_TEST_CASE(B2_who_writes_all_over_a_disk_waits_once_for_many_pages)
{
    ImageSpec spec = order_spec();
    spec.size = std::uint64_t(8) << 30;  // 64 pages of bits
    spec.clusters.clear();
    spec.bitmaps = {{.name = "fine", .granularity_bits = 12, .set = {}, .extra_data = {}}};
    DiskOptions options = Durable::options();
    options.arming.extra_bytes_max = 16 * region;
    options.arming.armings_all_over = 100;
    Durable order(spec, {}, options);
    std::uint64_t changed = 0;
    // Trims of what is not allocated: all that is written is bits.
    const auto change = [&](std::uint64_t times) {
        order.store().forget();
        for (std::uint64_t i = 0; i < times; ++i)
            must(order.disk().trim(GuestOffset(++changed * 99991 % (spec.size / cs) * cs), cs,
                                   false));
        return count_writes(order.recording());
    };
    const auto extra_bytes = [&] { return (order.bitmap("fine").bits.count() - changed) * cs; };
    const auto pages = div_ceil(spec.size / cs, DirtyBits::page_bits);

    // Each arms a region, for which another one is taken out in the end.
    BOOST_TEST(change(options.arming.armings_all_over) > options.arming.armings_all_over);
    BOOST_TEST(extra_bytes() <= options.arming.extra_bytes_max + DirtyBits::page_bits * cs);
    // The next one takes along all pages that have a cluster already.
    const auto with_cluster = [&] {
        return std::ranges::count_if(order.bitmap("fine").table, &BitmapTableEntry::has_cluster);
    };
    const auto there = with_cluster();
    BOOST_TEST(there > 20);
    BOOST_TEST(there < std::ptrdiff_t(pages));
    change(3);
    BOOST_TEST(extra_bytes() + changed * cs >= std::uint64_t(there) * DirtyBits::page_bits * cs);
    BOOST_TEST(with_cluster() <= there + 3);
    change(10 * pages);
    BOOST_TEST(extra_bytes() + changed * cs == spec.size);
    BOOST_TEST(change(10 * pages) == 0u);

    // The first two coolings find what was used since the last one; then nobody writes.
    for (int i = 0; i < 3; ++i)
        must(order.disk().cool());
    BOOST_TEST(extra_bytes() == 0u);
    BOOST_TEST(change(20) >= 20u);
    BOOST_TEST(extra_bytes() <= options.arming.extra_bytes_max + DirtyBits::page_bits * cs);
}

// A stream waits seldom: each region that it comes to is four times as wide as the last,
// and a new page begins with sixteen times as much.
BOOST_AUTO_TEST_CASE(B2_a_stream_waits_some_five_times_for_a_page)
{
    constexpr std::uint64_t granularity = 65536, step = 1 << 20;
    ImageSpec spec = order_spec();
    spec.cluster_bits = 16;
    spec.size = std::uint64_t(8) << 30;  // four pages
    spec.clusters.clear();
    spec.bitmaps = {{.name = "fine", .granularity_bits = 16, .set = {}, .extra_data = {}}};
    DiskOptions options = Durable::options();
    options.arming.region_bytes = 16 << 20;
    Durable order(spec, {}, options);
    must(order.disk().trim(GuestOffset(0), granularity, false));  // the bitmap has its cluster
    const HostOffset data =
        must(order.bitmap("fine").table.at(0).has_cluster()
                 ? Result<HostOffset>(order.bitmap("fine").table[0].data)
                 : Result<HostOffset>(Error(Errc::not_found, "no bitmap data")));
    order.store().forget();
    for (std::uint64_t at = granularity; at < spec.size; at += step)
        must(order.disk().trim(GuestOffset(at), granularity, false));
    std::size_t armings = 0;
    const Recording recording = order.recording();
    for (const Operation &operation : recording.operations)
        armings += operation.writes() && operation.range().overlaps(Range::of(data.value, 65536));
    BOOST_TEST(armings > 4u);
    BOOST_TEST(armings <= 5 + 3 * 3u);
}

BOOST_AUTO_TEST_CASE(B4_no_bitmap_is_ever_marked)
{
    Durable order;
    for (unsigned i = 0; i < 40; ++i) {
        order.write(i * 50, 1);
        if (i % 9 == 0)
            must(order.disk().cool());
        for (const char *name : {"fine", "coarse", "disabled"})
            BOOST_TEST(!order.bitmap(name).entry.in_use());
    }
    must(order.disk().close());
    BOOST_TEST(!order.bitmap("fine").entry.in_use());
}

BOOST_AUTO_TEST_CASE(B8_after_a_settle_there_is_nothing_too_much)
{
    Durable order;
    order.write(5, 1);
    must(order.disk().write(GuestOffset(700 * cs + 5), Buffer(2 * cs, 1), false));
    must(order.disk().settle());
    BitVector fine(2048), coarse(8);
    fine.set(1000);
    fine.set(5);
    fine.set(Range{700, 703});
    coarse.set(0);
    coarse.set(2);
    BOOST_TEST((order.bitmap("fine").bits == fine));
    BOOST_TEST((order.bitmap("coarse").bits == coarse));
    // Everything of it durable.
    const std::uint64_t now = order.now();
    for (const Operation &operation : order.recording().operations)
        if (operation.writes())
            BOOST_TEST(order.recording().is_durable(operation, now), to_string(operation));
}

BOOST_AUTO_TEST_CASE(O1_the_bits_that_were_read_are_durable_before_a_change_relies_on_them)
{
    Durable order;
    // Set from the beginning: needs no arming of its own.
    must(order.disk().write(GuestOffset(1000 * cs), Buffer(512, 1), false));
    const Recording recording = order.recording();
    const std::size_t flush = recording.find(0, [](const Operation &operation) {
        return operation.kind == Operation::Kind::flush && operation.succeeded;
    });
    const std::size_t write =
        recording.find(0, [](const Operation &operation) { return operation.writes(); });
    BOOST_REQUIRE(flush < write);
}

// What cannot be made durable is not promised.
BOOST_AUTO_TEST_CASE(durable_is_refused_where_nothing_can_be_flushed)
{
    const BuiltImage built = build_image(durable_spec());
    MemoryStore store(built.image, {.can_flush = false});
    const auto disk = Disk::open(store, Durable::options());
    BOOST_REQUIRE(!disk);
    BOOST_TEST(disk.error().what.find("bitmap-sync=on-close") != std::string::npos);
    DiskOptions options;
    auto fallen_back = must(Disk::open(store, options));
    must(fallen_back->begin_writing());
    must(fallen_back->write(GuestOffset(0), Buffer(512, 1), false));
    const StoreImage image = store.image();
    ImageView view(image);
    for (const StoredBitmap &bitmap : must(must(ImageReader::open(view)).bitmaps()))
        BOOST_TEST(bitmap.entry.in_use() == bitmap.entry.enabled());
}

BOOST_AUTO_TEST_SUITE_END()
