// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Rule B7, with bitmap-sync=durable: where there is no room for a bitmap. (And B2 of a
// table that says that all is dirty.)

#include "tests/order/durable.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_durable)

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
        BOOST_TEST(
            recording.is_durable(recording.operations[named], recording.operations[change].begun),
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
    spec.bitmaps = {{.name = "fine",
                     .granularity_bits = 9,
                     .set = {{last_bit, last_bit + 1}},
                     .extra_data = {}}};
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
            const std::size_t named =
                find_word(recording, 0, entry, 8, [](std::uint64_t word) { return word == 1; });
            const std::size_t change = recording.find(0, [&](const Operation &operation) {
                return operation.writes() &&
                       operation.range().overlaps(Range::of(host.value, 1 << 16));
            });
            BOOST_REQUIRE_MESSAGE(named < change, recording.text());
            BOOST_TEST(recording.is_durable(recording.operations[named],
                                            recording.operations[change].begun),
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
    BOOST_TEST(durably_written(
        recording, Range::of(order.refcount_place(bitmap.table[0].data).value, 2), event));
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
        return recording.operations.at(recording.find(
            0, [&](const Operation &operation) { return operation.writes() && like(operation); }));
    };
    const Operation change =
        find([&](const Operation &o) { return o.range().overlaps(Range::of(host.value, cs)); });
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
        for (const std::uint64_t size :
             {1ull << 20, 16ull << 20, 512ull << 20, 8ull << 30, 40ull << 30, 600ull << 30}) {
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
        return operation.writes() && operation.length == 4 &&
               operation.data == Buffer({0, 0, 0, bitmap_flags::auto_});
    });
    BOOST_REQUIRE(flags < recording.operations.size());
    const std::uint64_t event = recording.operations[flags].begun;
    BOOST_REQUIRE(bitmap.table.at(0).has_cluster());
    BOOST_TEST(durably_written(recording, Range::of(bitmap.table[0].data.value, cs), event));
    BOOST_TEST(
        durably_written(recording, Range::of(bitmap.entry.bitmap_table_offset.value, 8), event));
    // W1: the refcount even before the table names the cluster.
    const std::size_t named =
        find_word(recording, 0, bitmap.entry.bitmap_table_offset, 8,
                  [&](std::uint64_t word) { return word == bitmap.table[0].raw(); });
    BOOST_REQUIRE(named < flags);
    const Range refcount = Range::of(order.refcount_place(bitmap.table[0].data).value, 2);
    for (std::size_t i = 0; i < named; ++i)
        if (const Operation &raised = recording.operations[i];
            raised.writes() && raised.range().overlaps(refcount))
            BOOST_TEST(recording.is_durable(raised, recording.operations[named].begun),
                       recording.text());
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
        BOOST_TEST(said.find("bitmap 'coarse', granularity 1M: given up for lack of room") !=
                       said.npos,
                   said);
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

BOOST_AUTO_TEST_SUITE_END()
