// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The exports of a real disk, by their names.

#include "filter/exports.h"

#include <boost/test/unit_test.hpp>

#include "core/base/log.h"
#include "core/check/check.h"
#include "tests/support/frozen_disk_driver.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(exports_test)

namespace {

constexpr std::uint64_t disk_size = (3 << 20) + 512;

class Served {
public:
    Served()
    {
        ImageSpec spec;
        spec.cluster_bits = 12;
        spec.size = disk_size;
        spec.bitmaps = {{.name = "b", .granularity_bits = 14, .set = {}, .extra_data = {}}};
        store_.emplace(build_image(spec).image);
        DiskOptions options;
        options.scratch = &scratch_;
        disk_ = must(Disk::open(*store_, options));
        must(disk_->begin_writing());
        exports_ = std::make_unique<Exports>(*disk_);
    }

    Disk &disk() { return *disk_; }
    Exports &exports() { return *exports_; }

    std::unique_ptr<Export> open(const std::string &name) { return must(exports_->open(name)); }
    std::string refusal(const std::string &name)
    {
        const auto opened = exports_->open(name);
        BOOST_REQUIRE_MESSAGE(!opened, name);
        return opened.error().what;
    }
    void write(std::uint64_t offset, std::uint64_t length, std::uint32_t generation)
    {
        must(disk_->write(GuestOffset(offset), payload(GuestOffset(offset), length, generation),
                          false));
    }
    Buffer content(const std::string &name)
    {
        const auto opened = open(name);
        Buffer bytes(opened->size());
        must(opened->read(GuestOffset(0), bytes));
        return bytes;
    }

private:
    MemoryScratchMaker scratch_;
    std::optional<MemoryStore> store_;
    std::unique_ptr<Disk> disk_;
    std::unique_ptr<Exports> exports_;
};

// What a file shows over another content: where it says nothing that one is seen.
Buffer shown_by(const Buffer &file, Buffer below)
{
    StoreImage image;
    image.size = file.size();
    image.bytes.write(0, file);
    ImageView view(image);
    const CheckReport report = must(check(view));
    BOOST_REQUIRE_MESSAGE(report.sound(), report.text());
    const ImageReader reader = must(ImageReader::open(view));
    BOOST_REQUIRE_EQUAL(reader.disk_size(), below.size());
    const std::uint64_t cs = Qcow2File::cluster_size;
    for (std::uint64_t c = 0; c * cs < below.size(); ++c)
        if (must(reader.l2_entry(GuestCluster(c))) != 0)
            must(reader.read(GuestOffset(c * cs), sub(MutableBytes(below), c * cs,
                                                      std::min(cs, below.size() - c * cs))));
    return below;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_disk_and_its_snapshots)
{
    Served served;
    served.write(0, 1 << 20, 1);
    must(served.disk().create_snapshot({"before", 1764000005, 0}));
    served.write(4096, 500000, 2);
    const auto live = served.open("");
    const auto snapshot = served.open("snapshot/before");
    BOOST_TEST(live->can_write());
    BOOST_TEST(!snapshot->can_write());
    BOOST_TEST(live->preferred_block() == 4096u);
    BOOST_TEST(snapshot->size() == disk_size);
    Buffer bytes(1 << 20);
    must(snapshot->read(GuestOffset(0), bytes));
    BOOST_CHECK(bytes == payload(GuestOffset(0), 1 << 20, 1));
    must(live->write(GuestOffset(0), Buffer(4096, 9), false));
    must(snapshot->read(GuestOffset(0), bytes));
    BOOST_CHECK(bytes == payload(GuestOffset(0), 1 << 20, 1));
    BOOST_TEST(must(snapshot->status(GuestOffset(2 << 20), 512)).front().zero);
    BOOST_TEST(snapshot->description() ==
               "snapshot 'before' (ID 1) of 2025-11-24 16:00:05 UTC, read-only");

    const auto listed = served.exports().list();
    BOOST_REQUIRE_EQUAL(listed.size(), 2u);
    BOOST_TEST(listed[0].name == "");
    BOOST_TEST(listed[1].name == "snapshot/before");
    BOOST_TEST(listed[1].description == snapshot->description());
    BOOST_TEST(served.refusal("other") ==
               "there is no export 'other'; there are '', 'snapshot/before'");
    BOOST_TEST(served.refusal("snapshot/2") ==
               "export 'snapshot/2': there is no snapshot with the ID or name '2'; "
               "the image has snapshot 'before' (ID 1)");
}

// Full and incremental, read while the disk goes on.
BOOST_AUTO_TEST_CASE(what_backups_show_of_a_disk_that_goes_on)
{
    Served served;
    served.write(0, 2 << 20, 1);
    BackupRequest request;
    request.id = "sun";
    request.bitmaps = {"b"};
    must(served.disk().begin_backup(request));
    const Buffer at_sun = served.content("");
    served.write(100000, 700000, 2);
    must(served.disk().zero(GuestOffset(1 << 20), 300000, {}));
    BOOST_CHECK(served.content("backup/sun") == at_sun);
    BOOST_CHECK(shown_by(served.content("backup/sun.qcow2"), Buffer(disk_size)) == at_sun);
    const auto reader = served.open("backup/sun");
    must(served.disk().end_backup("sun", true));
    Buffer bytes(512);
    BOOST_TEST(!reader->read(GuestOffset(0), bytes));
    BOOST_TEST(served.refusal("backup/sun") == "there is no export 'backup/sun'; there are ''");

    request.id = "mon";
    request.incremental = true;
    request.whole = false;
    request.backing_file = "sun.qcow2";
    request.backing_format = "qcow2";
    must(served.disk().begin_backup(request));
    const Buffer at_mon = served.content("");
    served.write(0, 3 << 20, 3);
    BOOST_TEST(
        served.refusal("backup/mon") ==
        "export 'backup/mon': backup 'mon' keeps nothing but what is dirty: 'backup/mon/dirty'");
    BOOST_CHECK(shown_by(served.content("backup/mon/dirty.qcow2"), at_sun) == at_mon);
    const auto dirty = served.open("backup/mon/dirty");
    Buffer rebuilt = at_sun;
    std::uint64_t at = 0, clean = 0;
    for (const Extent &extent : must(dirty->status(GuestOffset(0), disk_size))) {
        const MutableBytes part = sub(MutableBytes(rebuilt), at, extent.length);
        if (!extent.hole)
            must(dirty->read(GuestOffset(at), part));
        else if (extent.zero)
            std::fill(part.begin(), part.end(), std::uint8_t(0));
        else
            clean += extent.length;
        at += extent.length;
    }
    BOOST_TEST(at == disk_size);
    BOOST_TEST(clean > std::uint64_t(1) << 20);
    BOOST_CHECK(rebuilt == at_mon);
    BOOST_TEST(!dirty->read(GuestOffset(2 << 20), bytes));  // neither dirty nor near it
    must(served.disk().end_backup("mon", true));
}

// One that is broken is not opened, and says why.
BOOST_AUTO_TEST_CASE(a_backup_that_is_broken)
{
    Served served;
    served.write(0, 1 << 20, 1);
    BackupRequest request;
    request.id = "mon";
    request.scratch_bytes_max = 8192;
    must(served.disk().begin_backup(request));
    const auto reader = served.open("backup/mon.qcow2");
    served.write(0, 1 << 20, 2);
    BOOST_REQUIRE(served.disk().backup("mon")->disk->broken());
    Buffer bytes(reader->size());
    const Result<void> read = reader->read(GuestOffset(0), bytes);
    BOOST_REQUIRE(!read);
    BOOST_TEST(served.refusal("backup/mon.qcow2")
                   .starts_with("export 'backup/mon.qcow2': backup 'mon' is broken: "));
    must(served.disk().end_backup("mon", false));
}

BOOST_AUTO_TEST_SUITE_END()
