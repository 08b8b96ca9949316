// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Rules B as bitmap-sync=durable needs them.

#include <thread>

#include "core/bitmap/dirty_bits.h"
#include "core/check/check.h"
#include "tests/order/order.h"
#include "tests/support/qemu_img.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_durable)

namespace {

constexpr std::uint64_t cs = 4096;
constexpr std::uint64_t region = 256 << 10;

ImageSpec durable_spec()
{
    ImageSpec spec = order_spec();
    spec.bitmaps = {
        // 2048 bits, in a cluster that is there.
        {.name = "fine", .granularity_bits = 12, .set = {{1000, 1001}}, .extra_data = {}},
        // 8 bits, in a cluster that is not.
        {.name = "coarse", .granularity_bits = 20, .set = {}, .extra_data = {}},
        {.name = "disabled", .granularity_bits = 12, .enabled = false, .set = {{2, 3}}, .extra_data = {}},
    };
    return spec;
}

class Durable : public Order {
public:
    explicit Durable(const ImageSpec &spec = durable_spec(), StoreOptions store = {},
                     DiskOptions disk_options = options())
        : Order(spec, store, disk_options)
    {
        must(disk().begin_writing());
    }

    static DiskOptions options()
    {
        DiskOptions options;
        options.bitmap_sync = BitmapSync::durable;
        options.region_bytes = region;
        return options;
    }

    StoredBitmap bitmap(const std::string &name) const
    {
        for (const StoredBitmap &bitmap : look([](const ImageReader &reader) { return must(reader.bitmaps()); }))
            if (bitmap.entry.name == name)
                return bitmap;
        throw std::out_of_range(name);
    }
    // Where the bit of a guest offset stands; 0 if its cluster is not there.
    HostOffset place(const std::string &name, std::uint64_t offset) const
    {
        const StoredBitmap found = bitmap(name);
        const std::uint64_t byte = offset / found.entry.granularity() / 8;
        const BitmapTableEntry &entry = found.table.at(byte / cs);
        return entry.has_cluster() ? entry.data + byte % cs : HostOffset(0);
    }
};

bool has_bit(const Operation &operation, HostOffset place, std::uint64_t bit)
{
    const auto word = word_of(operation, place, 1);
    return word && (*word >> bit % 8 & 1);
}

// The first write that puts this bit there.
std::size_t find_bit(const Recording &recording, HostOffset place, std::uint64_t bit)
{
    return recording.find(0, [&](const Operation &operation) { return has_bit(operation, place, bit); });
}

using Request = std::function<void(Order &)>;
const std::vector<std::pair<const char *, Request>> requests = {
    {"write", [](Order &order) { order.write(0, 7); }},
    {"zero", [](Order &order) { must(order.disk().zero(GuestOffset(0), cs, {})); }},
    {"zero of a part", [](Order &order) { must(order.disk().zero(GuestOffset(10), 100, {})); }},
    {"trim", [](Order &order) { must(order.disk().trim(GuestOffset(0), cs, true)); }},
};

// The first operation that touches the data or the mapping of guest cluster 0.
std::size_t find_change(const Recording &recording, HostOffset host, HostOffset l2)
{
    return recording.find(0, [&](const Operation &operation) {
        return operation.writes() && (operation.range().overlaps(Range::of(host.value, cs)) ||
                                      operation.range().overlaps(Range::of(l2.value, 8)));
    });
}

}  // namespace

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
                BOOST_TEST(recording.is_durable(recording.operations[set], begun), recording.text());
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
        const std::size_t named =
            find_word(recording, 0, coarse.entry.bitmap_table_offset, 8,
                      [&](std::uint64_t word) { return word == data.value; });
        BOOST_REQUIRE(named < recording.operations.size());
        const Operation &naming = recording.operations[named];
        BOOST_TEST(durably_written(recording, Range::of(data.value, cs), naming.begun), recording.text());
        const std::size_t counted = find_word(recording, 0, order.refcount_place(data), 2,
                                              [](std::uint64_t word) { return word == 1; });
        BOOST_REQUIRE(counted < recording.operations.size());
        BOOST_TEST(recording.is_durable(recording.operations[counted], naming.begun));
        const std::size_t change = find_change(recording, host, l2);
        BOOST_TEST(recording.is_durable(naming, recording.operations[change].begun), recording.text());
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
        BOOST_TEST(find_change(recording, host, l2) == recording.operations.size(), recording.text());
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
                                              recording.is_durable(operation,
                                                                   recording.operations[change].begun);
                                   }),
                       name << "\n" << recording.text());
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
    BOOST_TEST(!bit_of(1));     // cold now
    BOOST_TEST(!bit_of(63));
    BOOST_TEST(bit_of(512));
    BOOST_TEST(bit_of(513));
    BOOST_TEST(bit_of(514));
    BOOST_TEST(bit_of(1000));   // from the beginning
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
                must(order.disk().write(GuestOffset((t * 500 + i * 16) * cs), Buffer(512, 1), false));
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
    options.extra_bytes_max = 8 << 20;
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
                   options.extra_bytes_max + DirtyBits::page_bits * cs);
        for (const std::uint64_t cluster : written)
            BOOST_TEST(bitmap.bits.test(cluster));
    }
}

// A stream waits seldom: each region that it comes to is twice as wide as the last,
// and a new page begins with sixteen times as much.
BOOST_AUTO_TEST_CASE(B2_a_stream_waits_some_ten_times_for_a_page)
{
    constexpr std::uint64_t granularity = 65536, step = 1 << 20;
    ImageSpec spec = order_spec();
    spec.cluster_bits = 16;
    spec.size = std::uint64_t(8) << 30;  // four pages
    spec.clusters.clear();
    spec.bitmaps = {{.name = "fine", .granularity_bits = 16, .set = {}, .extra_data = {}}};
    DiskOptions options = Durable::options();
    options.region_bytes = 16 << 20;
    Durable order(spec, {}, options);
    must(order.disk().trim(GuestOffset(0), granularity, false));  // the bitmap has its cluster
    const HostOffset data = must(order.bitmap("fine").table.at(0).has_cluster()
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
    BOOST_TEST(armings <= 4 * 10u);
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

// Four clusters of bits, none there, and room for one: that is the last one's,
// which cannot be all ones.
BOOST_AUTO_TEST_CASE(B7_where_there_is_no_room_everything_is_dirty)
{
    ImageSpec spec = order_spec();
    spec.cluster_bits = 9;
    spec.size -= 512;
    const std::vector<std::uint64_t> written = {0, 5000, 9000, 16382};
    spec.clusters.clear();
    for (const std::uint64_t cluster : written)
        spec.clusters.emplace(cluster, Preset::data);
    spec.bitmaps = {{.name = "fine", .granularity_bits = 9, .set = {}, .extra_data = {}}};
    const std::uint64_t size = build_image(spec).image.size;
    Durable order(spec, {.can_grow = false, .size_limit = size + 512});
    for (const std::uint64_t cluster : written) {
        const HostOffset host = order.host_of(cluster);
        order.store().forget();
        must(order.disk().write(GuestOffset(cluster * 512), Buffer(512, 2), false));
        const StoredBitmap bitmap = order.bitmap("fine");
        const std::uint64_t entry = cluster / 4096;
        BOOST_TEST(bitmap.table.at(entry).all_ones == (entry < 3));
        BOOST_TEST(bitmap.bits.test(cluster));
        BOOST_TEST(!bitmap.entry.in_use());
        const Recording recording = order.recording();
        const std::size_t change = recording.find(0, [&](const Operation &operation) {
            return operation.writes() && operation.range().overlaps(Range::of(host.value, 512));
        });
        const std::size_t named =
            find_word(recording, 0, bitmap.entry.bitmap_table_offset + entry * 8, 8,
                      [&](std::uint64_t word) { return word == bitmap.table.at(entry).raw(); });
        if (entry == 3)
            continue;  // its name was there before
        BOOST_REQUIRE(named < change);
        BOOST_TEST(recording.is_durable(recording.operations[named], recording.operations[change].begun),
                   recording.text());
    }
    must(order.disk().close());
    for (const std::uint64_t cluster : written)
        BOOST_TEST(order.bitmap("fine").bits.test(cluster));
    BOOST_TEST(qemu_img_check(order.image()).status == 0);
}

// Two pages of bits under one table entry. It becomes all ones, but the write of
// the table fails: the bits of the other page are not in the file, whoever asks.
BOOST_AUTO_TEST_CASE(B2_all_ones_are_believed_only_when_the_table_says_so)
{
    ImageSpec spec = order_spec();
    spec.cluster_bits = 16;
    spec.size = std::uint64_t(600) << 20;
    const std::uint64_t other = (std::uint64_t(48) << 20) >> 16;  // of the third page
    const std::uint64_t last_bit = (spec.size >> 9) - 1;
    spec.clusters = {{0, Preset::data}, {other, Preset::data}};
    spec.bitmaps = {{.name = "fine", .granularity_bits = 9, .set = {{last_bit, last_bit + 1}}, .extra_data = {}}};
    const std::uint64_t size = build_image(spec).image.size;
    for (const bool alone : {false, true})
        for (const bool lands : {false, true}) {
            BOOST_TEST_INFO_SCOPE("alone: " << alone << ", lands: " << lands);
            Durable order(spec, {.durable_alone = alone, .can_grow = false, .size_limit = size});
            const Errc errc = alone ? Errc::no_space : Errc::io;  // which may be tried again
            order.plan().arm({.kinds = Fault::writes, .nth = 1, .lands = lands, .errc = errc});
            BOOST_REQUIRE(!order.disk().write(GuestOffset(0), Buffer(512, 1), false));
            BOOST_REQUIRE_EQUAL(order.plan().struck(), 1u);
            order.plan().disarm();

            const HostOffset host = order.host_of(other);
            const HostOffset entry = order.bitmap("fine").entry.bitmap_table_offset;
            order.store().forget();
            must(order.disk().write(GuestOffset(other << 16), Buffer(512, 2), false));
            const Recording recording = order.recording();
            const std::size_t named = find_word(recording, 0, entry, 8, [](std::uint64_t word) { return word == 1; });
            const std::size_t change = recording.find(0, [&](const Operation &operation) {
                return operation.writes() && operation.range().overlaps(Range::of(host.value, 1 << 16));
            });
            BOOST_REQUIRE_MESSAGE(named < change, recording.text());
            BOOST_TEST(recording.is_durable(recording.operations[named], recording.operations[change].begun),
                       recording.text());
            BOOST_TEST(order.bitmap("fine").bits.test(other << 7));
        }
}

// The last bits have their place before the first change, so that later there
// need be no room for them.
BOOST_AUTO_TEST_CASE(B7_the_last_bits_have_a_place_before_the_first_change)
{
    ImageSpec spec = durable_spec();
    const std::uint64_t size = build_image(spec).image.size;
    Durable order(spec, {.can_grow = false, .size_limit = size + cs});
    const StoredBitmap bitmap = order.bitmap("coarse");
    BOOST_REQUIRE(bitmap.table.at(0).has_cluster());
    BOOST_TEST(bitmap.bits.none());
    // Refcount and zeros were durable before the name, and the name is.
    const Recording recording = order.recording();
    const std::size_t named = find_word(recording, 0, bitmap.entry.bitmap_table_offset, 8,
                                        [](std::uint64_t word) { return word != 0; });
    BOOST_REQUIRE(named < recording.operations.size());
    const std::uint64_t event = recording.operations[named].begun;
    BOOST_TEST(durably_written(recording, Range::of(bitmap.table[0].data.value, cs), event));
    BOOST_TEST(durably_written(recording, Range::of(order.refcount_place(bitmap.table[0].data).value, 2), event));
    BOOST_TEST(recording.is_durable(recording.operations[named], order.now()));
    order.write(0, 3);
    BOOST_TEST(!order.bitmap("coarse").entry.in_use());
    BOOST_TEST(order.bitmap("coarse").bits.test(0));
    must(order.disk().close());
}

// Not a free cluster, and some that are in place.
class Full : public Durable {
public:
    explicit Full(const ImageSpec &spec = full_spec())
        : Durable(spec, {.can_grow = false, .size_limit = build_image(spec).image.size})
    {
    }

    static constexpr std::uint64_t shared = 60;  // clusters before it are in place
    static ImageSpec full_spec()
    {
        ImageSpec spec = durable_spec();
        spec.snapshot = true;
        for (std::uint64_t cluster = 3; cluster < shared; ++cluster)
            spec.clusters.emplace(cluster, Preset::data);
        spec.clusters.emplace(shared, Preset::shared_data);
        return spec;
    }
    bool given_up() const { return bitmap("coarse").entry.in_use(); }
};

// Data are placed before a bitmap is given up: what is refused costs nothing,
// neither at once nor when all is stored.
BOOST_AUTO_TEST_CASE(B7_no_bitmap_is_given_up_for_data_that_have_no_room_either)
{
    Full order;
    const auto refused = [&](const Result<void> &done) {
        BOOST_REQUIRE(!done);
        BOOST_TEST((done.error().code == Errc::no_space), words(done));
        BOOST_TEST(!order.given_up());
    };
    const std::uint64_t nowhere = 100, under_no_table = 1500;
    for (const std::uint64_t cluster : {nowhere, under_no_table, Full::shared})
        refused(order.disk().write(GuestOffset(cluster * cs), Buffer(512, 1), false));
    // Half of it in place, and half of it not.
    refused(order.disk().write(GuestOffset((Full::shared - 1) * cs), Buffer(2 * cs, 1), false));
    refused(order.disk().zero(GuestOffset(Full::shared * cs + 5), 100, {}));
    must(order.disk().settle());
    BOOST_TEST(!order.given_up());
    must(order.disk().close());
    BOOST_TEST(!order.given_up());
    BOOST_TEST(order.bitmap("coarse").bits.none());
    BOOST_TEST(qemu_img_check(order.image()).status == 0);
}

// Then it is marked, durably, and the guest's write goes on.
BOOST_AUTO_TEST_CASE(B7_a_bitmap_that_cannot_be_kept_true_is_marked)
{
    Full order;
    const HostOffset host = order.host_of(0);
    order.write(0, 3);
    BOOST_TEST(order.given_up());
    BOOST_TEST(!order.bitmap("fine").entry.in_use());
    BOOST_TEST(order.bitmap("fine").bits.test(0));
    const Recording recording = order.recording();
    const std::size_t change = recording.find(0, [&](const Operation &operation) {
        return operation.writes() && operation.range().overlaps(Range::of(host.value, cs));
    });
    BOOST_TEST(recording.is_durable(
        recording.operations[recording.find(
            0, [&](const Operation &operation) { return operation.length == 4; })],
        recording.operations[change].begun));
    must(order.disk().close());
    BOOST_TEST(order.given_up());
    BOOST_TEST(!order.bitmap("fine").entry.in_use());
    BOOST_TEST(qemu_img_check(order.image()).status == 0);
}

// Who sees that it is lost does not look at it again: so the mark is durable by then,
// whatever becomes of the change that has cost it.
BOOST_AUTO_TEST_CASE(B7_it_is_marked_durably_before_anybody_relies_on_that)
{
    ImageSpec spec = Full::full_spec();
    spec.bitmaps[0].set = {{5, 6}};  // of "fine": what is written later needs no arming
    Full order(spec);
    const HostOffset host = order.host_of(5);
    order.plan().arm({.kinds = Fault::writes, .nth = 2});  // the bits of "fine"
    BOOST_TEST(!order.disk().write(GuestOffset(0), Buffer(512, 1), false));
    BOOST_REQUIRE_EQUAL(order.plan().struck(), 1u);
    order.plan().disarm();
    BOOST_REQUIRE(order.given_up());
    order.write(5, 3);
    const Recording recording = order.recording();
    const auto find = [&](auto like) {
        return recording.operations.at(
            recording.find(0, [&](const Operation &operation) { return operation.writes() && like(operation); }));
    };
    const Operation change = find([&](const Operation &o) { return o.range().overlaps(Range::of(host.value, cs)); });
    const Operation flags = find([&](const Operation &o) { return o.length == 4; });
    BOOST_TEST(recording.is_durable(flags, change.begun), recording.text());
}

// When there is room it is valid again, all dirty, by whatever comes first.
BOOST_AUTO_TEST_CASE(B7_what_was_given_up_is_valid_again_when_there_is_room)
{
    using Change = std::function<Result<void>(Disk &)>;
    const std::vector<std::pair<const char *, Change>> changes = {
        {"it is idle", [](Disk &disk) { return disk.settle(); }},
        {"it is busy", [](Disk &disk) { return disk.cool(); }},
        {"it stops", [](Disk &disk) { return disk.close(); }},
        {"a larger disk", [](Disk &disk) { return disk.resize(512 << 20); }},
        {"a smaller disk", [](Disk &disk) { return disk.resize(1 << 20); }},
        {"a snapshot's disk", [](Disk &disk) { return disk.revert("1"); }},
    };
    for (const std::uint64_t room : {1, 57})
        for (const auto &[what, change] : changes) {
            BOOST_TEST_INFO_SCOPE(what << ", room for " << room);
            Full order;
            order.write(0, 3);
            BOOST_REQUIRE(order.given_up());
            for (std::uint64_t cluster = 3; cluster < 3 + room; ++cluster)
                order.trim(cluster);
            must(order.disk().flush());
            const Result<void> done = change(order.disk());
            BOOST_TEST((done || (room == 1 && done.error().code == Errc::no_space)), words(done));
            const StoredBitmap bitmap = order.bitmap("coarse");
            BOOST_TEST(!bitmap.entry.in_use());
            for (std::uint64_t bit = 0; bit < std::min<std::uint64_t>(8, bitmap.bits.size()); ++bit)
                BOOST_TEST(bitmap.bits.test(bit));
            BOOST_TEST(!order.bitmap("fine").entry.in_use());
            BOOST_TEST(order.bitmap("fine").bits.test(0));
            // And it is kept true from now on.
            if (what != std::string("it stops"))
                order.write(1, 4);
            must(order.disk().close());
            BOOST_TEST(!order.given_up());
            BOOST_TEST(qemu_img_check(order.image()).status == 0);
        }
}

// Another size of the disk, with whatever room there is, does not make the mark go: it is
// valid again when there is room, and nobody's word is needed.
BOOST_AUTO_TEST_CASE(B7_what_was_given_up_follows_the_disk_to_another_size)
{
    for (std::uint64_t room = 0; room < 7; ++room)
        for (const std::uint64_t size : {1ull << 20, 16ull << 20, 512ull << 20, 8ull << 30, 40ull << 30, 600ull << 30}) {
            BOOST_TEST_INFO_SCOPE("room for " << room << ", size " << size);
            Full order;
            order.write(0, 3);
            BOOST_REQUIRE(order.given_up());
            must(order.disk().close());
            const StoreImage full = order.image();
            MemoryStore small(full, {.can_grow = false, .size_limit = full.size});
            {
                const auto disk = must(Disk::open(small, Durable::options()));
                must(disk->begin_writing());
                if (room != 0)
                    must(disk->trim(GuestOffset(3 * cs), room * cs, {}));
                must(disk->flush());
                const Result<void> done = disk->resize(size);
                BOOST_TEST((done || done.error().code == Errc::no_space), words(done));
                must(disk->close());
            }
            MemoryStore store(small.image());
            const auto disk = must(Disk::open(store, Durable::options()));
            must(disk->begin_writing());
            must(disk->settle());
            must(disk->close());
            const StoreImage now = store.image();
            ImageView view(now);
            const StoredBitmap bitmap = must(must(ImageReader::open(view)).bitmaps()).at(1);
            BOOST_TEST(!bitmap.entry.in_use());
            BOOST_TEST(bitmap.bits.test(0));
        }
}

// With room for one cluster it happens in place: bits and table are durable before
// the flags say so.
BOOST_AUTO_TEST_CASE(B7_its_bits_are_durable_before_it_is_valid_again)
{
    Full order;
    order.write(0, 3);
    order.trim(3);
    must(order.disk().flush());
    order.store().forget();
    must(order.disk().settle());
    const StoredBitmap bitmap = order.bitmap("coarse");
    const Recording recording = order.recording();
    const std::size_t flags = recording.find(0, [](const Operation &operation) {
        return operation.writes() && operation.length == 4 && operation.data == Buffer({0, 0, 0, bitmap_flags::auto_});
    });
    BOOST_REQUIRE(flags < recording.operations.size());
    const std::uint64_t event = recording.operations[flags].begun;
    BOOST_REQUIRE(bitmap.table.at(0).has_cluster());
    BOOST_TEST(durably_written(recording, Range::of(bitmap.table[0].data.value, cs), event));
    BOOST_TEST(durably_written(recording, Range::of(bitmap.entry.bitmap_table_offset.value, 8), event));
    // W1: the refcount even before the table names the cluster.
    const std::size_t named = find_word(recording, 0, bitmap.entry.bitmap_table_offset, 8,
                                        [&](std::uint64_t word) { return word == bitmap.table[0].raw(); });
    BOOST_REQUIRE(named < flags);
    const Range refcount = Range::of(order.refcount_place(bitmap.table[0].data).value, 2);
    for (std::size_t i = 0; i < named; ++i)
        if (const Operation &raised = recording.operations[i];
            raised.writes() && raised.range().overlaps(refcount))
            BOOST_TEST(recording.is_durable(raised, recording.operations[named].begun), recording.text());
}

// Nobody's word is needed, and the disk is served meanwhile.
BOOST_AUTO_TEST_CASE(B7_what_was_given_up_does_not_keep_a_server_from_starting)
{
    Full order;
    order.write(0, 3);
    must(order.disk().close());
    const StoreImage full = order.image();
    DiskOptions options = Durable::options();
    options.bitmaps = {"coarse"};
    {
        MemoryStore store(full, {.can_grow = false, .size_limit = full.size});
        const auto disk = must(Disk::open(store, options));
        std::string said;
        for (const ReportLine &line : disk->report(false))
            said += line.level == LogLevel::warning ? line.text : "";
        BOOST_TEST(said.find("bitmap 'coarse', granularity 1M: given up for lack of room") != said.npos, said);
        must(disk->begin_writing());
        must(disk->write(GuestOffset(0), Buffer(512, 1), true));
        must(disk->settle());
        must(disk->cool());
        must(disk->close());
        const StoreImage now = store.image();
        ImageView view(now);
        BOOST_TEST(must(must(ImageReader::open(view)).bitmaps()).at(1).entry.in_use());
        BOOST_TEST(must(check(view)).sound());
    }
    MemoryStore store(full);
    const auto disk = must(Disk::open(store, options));
    must(disk->begin_writing());
    must(disk->close());
    const StoreImage now = store.image();
    ImageView view(now);
    const auto bitmaps = must(must(ImageReader::open(view)).bitmaps());
    BOOST_TEST((!bitmaps.at(1).entry.in_use() && bitmaps[1].bits.all()));
    BOOST_TEST(must(check(view)).sound());
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
    const std::size_t write = recording.find(0, [](const Operation &operation) { return operation.writes(); });
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
