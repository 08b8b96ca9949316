// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// How the bitmaps of a backup are rotated, and what is refused while one runs.
//
// F4  In the file a bitmap covers all changes since the last backup that was said
//     to have succeeded.

#include <set>

#include "core/structure/operations.h"
#include "tests/order/order.h"
#include "tests/support/frozen_disk_driver.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(rotation)

namespace {

using Set = std::set<std::uint64_t>;

class Rotation {
public:
    static constexpr std::uint64_t cluster_size = 4096;

    Rotation() : order_(spec(), {}, options())
    {
        must(disk().begin_writing());
        order_.write(1, 1);
    }

    Disk &disk() { return order_.disk(); }
    void write(std::uint64_t cluster) { order_.write(cluster, ++generation_); }
    void begin(const std::string &id, bool incremental = true,
               std::vector<std::string> bitmaps = {"b0"})
    {
        must(disk().begin_backup(
            {.id = id, .bitmaps = std::move(bitmaps), .incremental = incremental}));
    }
    // As a clean stop leaves it; nothing may be asked of the disk after that.
    Set closed(const std::string &name)
    {
        must(disk().close());
        return in_file(name);
    }
    Set in_file(const std::string &name)
    {
        return order_.look([&](const ImageReader &reader) {
            Set set;
            for (const auto &bitmap : must(reader.bitmaps()))
                if (bitmap.entry.name == name)
                    for (std::uint64_t g = bitmap.bits.next_set(0); g < bitmap.bits.size();
                         g = bitmap.bits.next_set(g + 1))
                        set.insert(g);
            return set;
        });
    }
    std::size_t bitmaps()
    {
        return order_.look([](const ImageReader &reader) { return must(reader.bitmaps()).size(); });
    }

private:
    static ImageSpec spec()
    {
        ImageSpec spec;
        spec.cluster_bits = 12;
        spec.size = 64 * cluster_size;
        for (std::uint64_t cluster = 0; cluster < 16; ++cluster)
            spec.clusters.emplace(cluster, Preset::data);
        spec.bitmaps = {{.name = "b0", .granularity_bits = 12, .set = {{3, 5}}, .extra_data = {}},
                        {.name = "off",
                         .granularity_bits = 12,
                         .enabled = false,
                         .set = {{7, 8}},
                         .extra_data = {}},
                        {.name = "torn",
                         .granularity_bits = 12,
                         .in_use = true,
                         .set = {{7, 8}},
                         .extra_data = {}}};
        return spec;
    }
    DiskOptions options()
    {
        DiskOptions options;
        options.scratch = &maker_;
        options.arming.region_bytes = cluster_size;
        return options;
    }

    MemoryScratchMaker maker_;
    Order order_;
    std::uint32_t generation_ = 10;
};

void refused(const Result<void> &done, Errc code, const std::string &words)
{
    BOOST_REQUIRE(!done);
    BOOST_TEST((done.error().code == code), done.error().what);
    BOOST_TEST(done.error().what.find(words) != std::string::npos, done.error().what);
}

template <class T>
Result<void> only_whether(const Result<T> &done)
{
    return done ? Result<void>() : done.error();
}

}  // namespace

BOOST_AUTO_TEST_CASE(F4_after_success_a_bitmap_has_what_changed_since_the_instant)
{
    Rotation r;
    r.begin("mon");
    r.write(1);
    r.write(9);
    BOOST_TEST((r.in_file("b0").contains(3)));
    must(r.disk().end_backup("mon", true));
    r.write(20);
    BOOST_TEST((r.closed("b0") == Set{1, 9, 20}));
}

BOOST_AUTO_TEST_CASE(F4_after_failure_it_has_all_of_it)
{
    Rotation r;
    r.begin("mon");
    r.write(9);
    must(r.disk().end_backup("mon", false));
    BOOST_TEST((r.closed("b0") == Set{1, 3, 4, 9}));
}

BOOST_AUTO_TEST_CASE(F4_a_stop_ends_a_backup_without_success)
{
    Rotation r;
    r.begin("mon");
    r.write(9);
    BOOST_TEST((r.closed("b0") == Set{1, 3, 4, 9}));
}

BOOST_AUTO_TEST_CASE(F4_what_is_not_dirty_any_more_leaves_the_file_without_a_stop)
{
    Rotation r;
    must(r.disk().settle());
    r.begin("mon");
    BOOST_TEST((r.in_file("b0") == Set{1, 3, 4}));
    must(r.disk().end_backup("mon", true));
    BOOST_TEST((r.in_file("b0") == Set{}));
}

BOOST_AUTO_TEST_CASE(F4_the_record_goes_along_when_the_image_is_opened_anew)
{
    Rotation r;
    r.begin("mon");
    r.write(9);
    must(r.disk().create_snapshot({"s", 1700000000, 0}));
    r.write(10);
    must(r.disk().resize(80 * Rotation::cluster_size));
    r.write(70);
    must(r.disk().change_together({AddBitmap{{.name = "new"}}, ClearBitmap{"off"}}));
    r.write(11);
    must(r.disk().end_backup("mon", true));
    BOOST_TEST((r.closed("b0") == Set{9, 10, 11, 70}));
}

BOOST_AUTO_TEST_CASE(F3_a_broken_backup_cannot_succeed)
{
    Rotation r;
    must(r.disk().begin_backup({.id = "mon", .bitmaps = {"b0"}, .scratch_bytes_max = 4096}));
    r.write(2);
    r.write(3);  // one too many
    BOOST_TEST(r.disk().backup("mon")->disk->broken().has_value());
    refused(r.disk().end_backup("mon", true), Errc::busy, "is broken, and cannot succeed");
    BOOST_TEST(r.disk().backups().size() == 1u);
    must(r.disk().end_backup("mon", false));
    BOOST_TEST((r.closed("b0") == Set{1, 2, 3, 4}));
}

BOOST_AUTO_TEST_CASE(a_full_backup_makes_its_bitmap_all_dirty_until_it_has_succeeded)
{
    Set all;
    for (std::uint64_t g = 0; g < 64; ++g)
        all.insert(g);
    for (const bool success : {false, true}) {
        Rotation r;
        r.begin("full", false, {"new"});
        r.write(5);
        BOOST_TEST((r.in_file("new") == all || r.in_file("new").empty()));
        must(r.disk().end_backup("full", success));
        const Set set = r.closed("new");
        BOOST_TEST((success ? set.contains(5) && set.size() < 10 : set.size() >= 64));
    }
}

BOOST_AUTO_TEST_CASE(a_full_backup_makes_an_inconsistent_bitmap_anew)
{
    Rotation r;
    refused(
        only_whether(r.disk().begin_backup({.id = "i", .bitmaps = {"torn"}, .incremental = true})),
        Errc::busy, "inconsistent");
    r.begin("full", false, {"torn"});
    r.write(5);
    must(r.disk().end_backup("full", true));
    BOOST_TEST((r.closed("torn") == Set{5}));
}

BOOST_AUTO_TEST_CASE(a_bitmap_that_a_backup_has_is_busy)
{
    Rotation r;
    r.begin("mon");
    for (const BitmapStep &step :
         {BitmapStep(RemoveBitmap{"b0"}), BitmapStep(ClearBitmap{"b0"}),
          BitmapStep(DisableBitmap{"b0"}), BitmapStep(MergeBitmaps{"b0", {"off"}})})
        refused(only_whether(r.disk().change_together({step})), Errc::busy,
                "'b0' is in use by backup 'mon'");
    refused(only_whether(r.disk().begin_backup({.id = "two", .bitmaps = {"b0"}})), Errc::busy,
            "in use by backup 'mon'");
    refused(only_whether(r.disk().begin_backup({.id = "mon"})), Errc::exists, "running already");
    // To be looked at, or enabled once more, does no harm.
    must(r.disk().change_together({MergeBitmaps{"off", {"b0"}}, EnableBitmap{"b0"}}));
    must(r.disk().end_backup("mon", true));
    must(r.disk().change_together({ClearBitmap{"b0"}}));
    // Nor may a later step of the same instant change it.
    refused(only_whether(r.disk().change_together(
                {BeginBackup{{.id = "x", .bitmaps = {"b0"}}}, RemoveBitmap{"b0"}})),
            Errc::busy, "in use by the backup that begins");
    BOOST_TEST(r.disk().backups().empty());
}

BOOST_AUTO_TEST_CASE(while_a_backup_runs_the_disk_keeps_what_it_shows)
{
    Rotation r;
    must(r.disk().create_snapshot({"s", 1700000000, 0}));
    r.begin("mon");
    refused(r.disk().resize(Rotation::cluster_size), Errc::busy,
            "cannot be made smaller while backup 'mon'");
    refused(r.disk().revert("s"), Errc::busy,
            "cannot be reverted to a snapshot while backup 'mon'");
    must(r.disk().delete_snapshot("s"));
    must(r.disk().end_backup("mon", false));
    must(r.disk().resize(Rotation::cluster_size));
}

BOOST_AUTO_TEST_CASE(a_backup_begins_with_all_other_steps_or_not_at_all)
{
    Rotation r;
    const BeginBackup begin{{.id = "mon", .bitmaps = {"b0"}, .incremental = true}};
    refused(only_whether(r.disk().change_together(
                {AddBitmap{{.name = "new"}}, begin, RemoveBitmap{"nobody"}})),
            Errc::not_found, "'nobody'");
    BOOST_TEST(r.disk().backups().empty());
    BOOST_TEST(r.bitmaps() == 3u);
    r.write(2);
    const auto backup = must(r.disk().change_together(
        {AddBitmap{{.name = "new"}}, begin, MakeSnapshot{{"s", 1700000000, 0}}}));
    r.write(9);
    BOOST_TEST((backup->bitmaps.at(0).bits->count() == 4u));  // 1, 2, 3, 4
    must(r.disk().end_backup("mon", true));
    BOOST_TEST((r.closed("b0") == Set{9}));
    BOOST_TEST((r.in_file("new") == Set{9}));
}

BOOST_AUTO_TEST_CASE(what_cannot_be_a_backup_is_refused)
{
    Rotation r;
    const auto begin = [&](BackupRequest request) {
        return only_whether(r.disk().begin_backup(request));
    };
    for (const std::string &id :
         {std::string(), std::string("a/b"), std::string(256, 'a'), std::string("a b")})
        refused(begin({.id = id}), Errc::invalid, "the ID of a backup");
    refused(begin({.id = "i", .incremental = true}), Errc::invalid, "needs a bitmap");
    refused(begin({.id = "i", .bitmaps = {"b0", "b0"}}), Errc::invalid, "named twice");
    refused(begin({.id = "i", .bitmaps = {"nobody"}, .incremental = true}), Errc::not_found,
            "no bitmap 'nobody'");
    refused(begin({.id = "i", .bitmaps = {"off"}}), Errc::busy, "is disabled");
    refused(r.disk().end_backup("i", true), Errc::not_found, "no backup 'i' is running");
    BOOST_TEST(r.disk().backups().empty());
}

BOOST_AUTO_TEST_SUITE_END()
