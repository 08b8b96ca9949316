// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Bitmaps that lie: extension, directory, tables and data that cannot be, or
// that lead to what is somebody else's. (Each finding of its own: corrupt_test.)
// core/check tells each one; the disk is read as if nothing were wrong, is not
// written, and not one byte of the file changes.

#include "core/check/check.h"
#include "core/disk.h"
#include "core/structure/operations.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"
#include "tests/support/payload.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(bitmap_defects)

namespace {

// The extension of the bitmaps is the first one: what follows its type and length.
constexpr std::uint64_t nb_bitmaps = 120, directory_size = 128, directory_offset = 136;
// Both directory entries have 32 bytes.
constexpr std::uint64_t entry_size = 32;

ImageSpec two_bitmaps()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 4 << 20;
    spec.feature_names = 0;
    spec.clusters = {{0, Preset::data}, {1, Preset::data}, {2, Preset::zero}, {600, Preset::data}};
    for (const char *name : {"b0", "b1"}) {
        BitmapSpec bitmap;
        bitmap.name = name;
        bitmap.granularity_bits = 12;
        bitmap.set = {{0, 3}};
        spec.bitmaps.push_back(bitmap);
    }
    return spec;
}

std::uint64_t table(Patient &p, int bitmap) { return p.word(p.directory() + bitmap * entry_size); }

struct Defect {
    const char *name;
    Finding finding;  // for which the disk is not written
    void (*make)(Patient &);
};

const Defect defects[] = {
    {"no bitmaps at all", Finding::bitmap_count_wrong, [](Patient &p) { p.put_32(nb_bitmaps, 0); }},
    {"2^32 - 1 bitmaps", Finding::bitmap_count_wrong,
     [](Patient &p) { p.put_32(nb_bitmaps, 0xffffffff); }},
    {"one bitmap more than there is", Finding::bitmap_directory_size_wrong,
     [](Patient &p) { p.put_32(nb_bitmaps, 3); }},
    {"a directory of size 0", Finding::bitmap_directory_size_wrong,
     [](Patient &p) { p.put(directory_size, 0); }},
    {"a directory of 2^64 - 1 bytes", Finding::bitmap_directory_size_wrong,
     [](Patient &p) { p.put(directory_size, ~std::uint64_t(0)); }},
    {"a directory in the header", Finding::tables_overlap,
     [](Patient &p) { p.put(directory_offset, 0); }},
    {"a directory in the L1 table", Finding::bitmap_directory_trailing_bytes,
     [](Patient &p) { p.put(directory_offset, p.l1(0)); }},
    {"a directory of zeros", Finding::bitmap_directory_trailing_bytes,
     [](Patient &p) { must(p.store().write(p.directory(), Buffer(2 * entry_size))); }},
    {"a directory of ones", Finding::bitmap_directory_entry_truncated,
     [](Patient &p) { must(p.store().write(p.directory(), Buffer(2 * entry_size, 0xff))); }},
    {"a table of 2^32 - 1 entries", Finding::bitmap_table_size_wrong,
     [](Patient &p) { p.put_32(p.directory() + 8, 0xffffffff); }},
    {"a table of size 0", Finding::bitmap_table_size_wrong,
     [](Patient &p) { p.put_32(p.directory() + 8, 0); }},
    {"a table in the L1 table", Finding::tables_overlap,
     [](Patient &p) { p.put(p.directory(), p.l1(0)); }},
    {"a table in the refcount block", Finding::tables_overlap,
     [](Patient &p) { p.put(p.directory(), p.refcount_block()); }},
    {"a table in the directory", Finding::tables_overlap,
     [](Patient &p) { p.put(p.directory(), p.directory()); }},
    {"one table of two bitmaps", Finding::tables_overlap,
     [](Patient &p) { p.put(p.directory() + entry_size, table(p, 0)); }},
    {"one data cluster of two bitmaps", Finding::tables_overlap,
     [](Patient &p) { p.put(table(p, 1), p.word(table(p, 0))); }},
    {"bits in the L1 table", Finding::tables_overlap,
     [](Patient &p) { p.put(table(p, 0), p.l1(0)); }},
    {"bits in their own table", Finding::tables_overlap,
     [](Patient &p) { p.put(table(p, 0), table(p, 0)); }},
    {"bits in an L2 table", Finding::tables_overlap,
     [](Patient &p) { p.put(table(p, 0), p.l2(0)); }},
    // (Bits in the guest's data are found by a check of the whole image only.)
};

}  // namespace

BOOST_AUTO_TEST_CASE(check_tells_and_the_disk_is_read_and_not_written)
{
    for (const Defect &defect : defects) {
        BOOST_TEST_INFO_SCOPE(defect.name);
        Patient patient(two_bitmaps());
        BOOST_REQUIRE(must(check(patient.store())).sound());
        defect.make(patient);
        const StoreImage before = patient.store().image();

        const CheckReport report = must(check(patient.store()));
        BOOST_TEST(!report.leaks_at_worst(), defect.name << ": " << report.text());
        {
            const auto disk = must(Disk::open(patient.store(), {}));
            BOOST_REQUIRE_MESSAGE(disk->why_read_only(), defect.name);
            const std::string why = disk->why_read_only()->what;
            BOOST_TEST(why.find(sentence_of(defect.finding)) != std::string::npos, why);
            must(disk->begin_writing());
            BOOST_TEST(!disk->write(GuestOffset(0), Buffer(512, 1), false));
            Buffer found(patient.reference().size());
            must(disk->read(GuestOffset(0), found));
            BOOST_TEST(payload_difference(GuestOffset(0),
                                          patient.reference().read(GuestOffset(0), found.size()),
                                          found) == "");
            must(disk->close());
        }
        const StoreImage after = patient.store().image();
        BOOST_TEST((after.bytes == before.bytes && after.size == before.size), defect.name);
    }
}

// One bitmap that nobody can use must not take the disk: there is a way out, the
// message says it, and it leads out.
BOOST_AUTO_TEST_CASE(A5_bitmaps_that_nobody_can_use_are_removed_and_the_disk_is_written)
{
    enum class What { all, b0, b1 };
    unsigned by_name = 0;
    for (const Defect &defect : defects)
        for (const What what : {What::all, What::b0, What::b1}) {
            BOOST_TEST_INFO_SCOPE(defect.name);
            Patient patient(two_bitmaps());
            defect.make(patient);
            const std::string why = must(Disk::open(patient.store(), {}))->why_read_only()->what;
            const bool says_all = why.ends_with("; bitmap-remove-all=yes removes the bitmaps");
            BOOST_TEST((says_all || why.ends_with("; bitmap-remove=NAME removes one bitmap")), why);
            {
                DiskOptions options;
                options.mends_bitmaps = true;
                const auto disk = must(Disk::open(patient.store(), options));
                BOOST_REQUIRE(!disk->why_read_only());
                const auto dropped = disk->restructure([&](Image &image) {
                    return what == What::all ? drop_all_bitmaps(image)
                                             : drop_bitmap(image, what == What::b0 ? "b0" : "b1");
                });
                if (what == What::all)
                    BOOST_REQUIRE_MESSAGE(dropped, words(dropped));
                must(disk->close());
            }
            const auto disk = must(Disk::open(patient.store(), {}));
            if (what != What::all && disk->why_read_only())
                continue;  // it was the other one, or none has a name
            by_name += what != What::all;
            BOOST_REQUIRE(!disk->why_read_only());
            must(disk->begin_writing());
            ReferenceDisk reference = patient.reference();
            for (std::uint64_t at = 0; at < reference.size(); at += 1 << 20) {
                reference.write(GuestOffset(at), Buffer(5000, 0x77));
                must(disk->write(GuestOffset(at), Buffer(5000, 0x77), false));
            }
            must(disk->close());
            const CheckReport report = must(check(patient.store()));
            BOOST_TEST(report.leaks_at_worst(), report.text());
            const auto again = must(Disk::open(patient.store(), {}));
            Buffer found(reference.size());
            must(again->read(GuestOffset(0), found));
            BOOST_TEST(payload_difference(GuestOffset(0),
                                          reference.read(GuestOffset(0), found.size()),
                                          found) == "");
        }
    BOOST_TEST(by_name >= 8u);
}

// It asks for a change: it is not served read-only as if nobody had asked.
BOOST_AUTO_TEST_CASE(A5_all_dirty_is_refused_where_the_directory_cannot_be_read)
{
    Patient patient(two_bitmaps());
    must(patient.store().write(patient.directory(), Buffer(2 * entry_size)));
    DiskOptions options;
    options.recover_all_dirty = true;
    const auto opened = Disk::open(patient.store(), options);
    BOOST_REQUIRE(!opened);
    BOOST_TEST(opened.error().what.starts_with("bitmap-recover=all-dirty asks for a change: "),
               opened.error().what);
    BOOST_TEST(opened.error().what.ends_with("bitmap-remove-all=yes removes the bitmaps"),
               opened.error().what);
    options.read_only = true;
    must(Disk::open(patient.store(), options));
}

// Nobody who opens the image can know it without walking all of it; the check does.
BOOST_AUTO_TEST_CASE(bits_in_the_guests_data_are_seen_by_the_check)
{
    Patient patient(two_bitmaps());
    patient.put(table(patient, 0), patient.host(0));
    const CheckReport report = must(check(patient.store()));
    BOOST_TEST(!report.leaks_at_worst(), report.text());
}

BOOST_AUTO_TEST_SUITE_END()
