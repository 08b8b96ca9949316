// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/backup_exports.h"

#include <boost/test/unit_test.hpp>

#include "core/base/bit_vector.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(backup_exports)

namespace {

constexpr std::uint64_t unit = 64 << 10;

// A disk of 16 units and a half; the second half of each unit reads as zeros, and of the
// odd ones all.
class Source final : public BackupSource {
public:
    explicit Source(const std::vector<std::string> &names) : bits_(33)
    {
        bits_.set({2, 5});  // of half a unit each
        bits_.set(32);      // the last one
        for (const std::string &name : names)
            bitmaps_.push_back({name, 15, [this](std::uint64_t bit, bool set) {
                                    return set ? bits_.next_set(bit) : bits_.next_clear(bit);
                                }});
    }

    std::uint64_t size() const override { return 16 * unit + unit / 2 - 512; }
    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        fill_payload(offset, bytes, 1);
        return {};
    }
    Result<std::vector<Extent>> status(std::uint64_t offset, std::uint64_t length) override
    {
        ++asked;
        const std::uint64_t half = offset / (unit / 2);
        const bool data = half % 4 == 0;
        return std::vector<Extent>{
            {std::min(length, (half + 1) * (unit / 2) - offset), false, !data}};
    }
    const std::vector<BackupBitmap> &bitmaps() const override { return bitmaps_; }

    unsigned asked = 0;

private:
    BitVector bits_;
    std::vector<BackupBitmap> bitmaps_;
};

ServedBackup backup(const std::string &id, const std::vector<std::string> &bitmaps, bool whole)
{
    ServedBackup made;
    made.id = id;
    made.source = std::make_shared<Source>(bitmaps);
    made.identity = made.source;
    made.whole = whole;
    return made;
}

std::vector<std::string> names(const ServedBackup &backup)
{
    std::vector<ExportName> exports;
    BackupExports::list(backup, exports);
    std::vector<std::string> names;
    for (const ExportName &one : exports)
        names.push_back(one.name);
    return names;
}

std::string refusal(const std::vector<ServedBackup> &backups, const std::string &name)
{
    BackupExports exports;
    const auto opened = exports.open(backups, name);
    BOOST_REQUIRE_MESSAGE(!opened, name);
    return words(Result<void>(opened.error()));
}

using Names = std::vector<std::string>;

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_listed_can_be_opened_and_says_what_it_is)
{
    const auto per_element = boost::test_tools::per_element();
    BOOST_TEST(names(backup("mon", {}, true)) == (Names{"backup/mon", "backup/mon.qcow2"}),
               per_element);
    BOOST_TEST(names(backup("mon", {"b"}, false)) ==
                   (Names{"backup/mon/dirty", "backup/mon/dirty.qcow2"}),
               per_element);
    BOOST_TEST(names(backup("mon", {"b", "c d/e"}, true)) ==
                   (Names{"backup/mon", "backup/mon.qcow2", "backup/mon/dirty/b",
                          "backup/mon/dirty/b.qcow2", "backup/mon/dirty/c d/e",
                          "backup/mon/dirty/c d/e.qcow2"}),
               per_element);
    // What nobody should see is not listed.
    BOOST_TEST(names(backup("mon", {"b", "\x1b[2J"}, false)) ==
                   (Names{"backup/mon/dirty/b", "backup/mon/dirty/b.qcow2"}),
               per_element);

    std::vector<ServedBackup> backups = {backup("m", {"b"}, true),
                                         backup("mon", {"b", "c.qcow2", "c"}, true)};
    backups[0].backing_file = "sun.qcow2";
    backups[0].backing_format = "qcow2";
    BackupExports exports;
    for (const ServedBackup &one : backups) {
        std::vector<ExportName> listed;
        BackupExports::list(one, listed);
        for (const ExportName &each : listed)
            if (each.name != "backup/mon/dirty/c.qcow2") {
                const auto opened = must(exports.open(backups, each.name));
                BOOST_TEST(opened->description() == each.description, each.name);
                BOOST_TEST(!opened->can_write());
                BOOST_TEST(!opened->write(GuestOffset(0), Buffer(1), false));
            }
    }
    // The bitmap of that very name, rather than the file of another one.
    BOOST_TEST(must(exports.open(backups, "backup/mon/dirty/c.qcow2"))->description() ==
               "the disk as it was when backup 'mon' began; block status tells "
               "what bitmap 'c.qcow2' has dirty, read-only");
    BOOST_TEST(must(exports.open(backups, "backup/m/dirty/b.qcow2"))->description() ==
               "the bytes of a qcow2 file: what bitmap 'b' has dirty, as it was "
               "when backup 'm' began, over 'sun.qcow2', "
               "read-only");
    BOOST_TEST(must(exports.open(backups, "backup/m/dirty/b"))->size() ==
               16 * unit + unit / 2 - 512);
}

BOOST_AUTO_TEST_CASE(what_there_is_not_is_refused_with_a_way_out)
{
    const std::vector<ServedBackup> backups = {backup("mon", {"b", "c"}, false),
                                               backup("sun", {}, true)};
    for (const char *name : {"backup/", "backup/other", "backup/mon/", "backup/monday",
                             "backup/mon/dirty/", "backup/sun/dirty", "backup/mon/dirty/d",
                             "backup/mon/dirty/d.qcow2", "backup/sun.qcow2.qcow2", "backup/.qcow2"})
        BOOST_TEST(refusal(backups, name).starts_with("not_found: "), name);
    BOOST_TEST(
        refusal(backups, "backup/mon/dirty") ==
        "invalid: backup 'mon' has several bitmaps: say which one, as in 'backup/mon/dirty/b'");
    BOOST_TEST(refusal(backups, "backup/mon.qcow2") ==
               "invalid: backup 'mon' keeps nothing but what is dirty: 'backup/mon/dirty'");
}

// Clean is a hole that is not known to be zero, and neighbours are one.
BOOST_AUTO_TEST_CASE(block_status_of_what_is_dirty)
{
    const std::vector<ServedBackup> backups = {backup("mon", {"b"}, false)};
    BackupExports exports;
    const auto dirty = must(exports.open(backups, "backup/mon/dirty"));
    const auto told = [&](std::uint64_t offset, std::uint64_t length) {
        std::string text;
        std::uint64_t covered = 0;
        for (const Extent &extent : must(dirty->status(GuestOffset(offset), length))) {
            text += std::to_string(extent.length) + (extent.hole ? " hole" : "") +
                    (extent.zero ? " zero" : "") + ";";
            covered += extent.length;
        }
        BOOST_TEST(covered == length);
        return text;
    };
    BOOST_TEST(told(0, dirty->size()) == "65536 hole;65536 hole zero;32768;884736 hole;32256;");
    BOOST_TEST(told(65536 + 5, 100) == "100 hole zero;");
    BOOST_TEST(told(dirty->size() - 512, 512) == "512;");
    // What is clean is nobody asked about.
    Source &source = static_cast<Source &>(*backups[0].source);
    source.asked = 0;
    BOOST_TEST(told(3 * unit, 10 * unit) == "655360 hole;");
    BOOST_TEST(source.asked == 0u);
    Buffer bytes(1000);
    must(dirty->read(GuestOffset(7), bytes));  // clean bytes are true
    BOOST_TEST(bytes == payload(GuestOffset(7), 1000, 1), boost::test_tools::per_element());
}

// One layout for all who read it, as long as the backup runs.
BOOST_AUTO_TEST_CASE(a_file_is_laid_out_once)
{
    BackupExports exports;
    std::vector<ServedBackup> backups = {backup("mon", {"b"}, true)};
    Source &source = static_cast<Source &>(*backups[0].source);
    const auto first = must(exports.open(backups, "backup/mon.qcow2"));
    const unsigned asked = source.asked;
    BOOST_TEST(asked != 0u);
    const auto second = must(exports.open(backups, "backup/mon.qcow2"));
    BOOST_TEST(source.asked == asked);
    BOOST_TEST(first->size() == second->size());
    const auto dirty = must(exports.open(backups, "backup/mon/dirty.qcow2"));
    BOOST_TEST(source.asked != asked);
    BOOST_TEST(dirty->size() < first->size());
    const unsigned twice = source.asked;
    must(exports.open(backups, "backup/mon/dirty/b.qcow2"));
    BOOST_TEST(source.asked == twice);
    // Another backup of that name is another one.
    backups = {backup("mon", {"b"}, true)};
    must(exports.open(backups, "backup/mon.qcow2"));
    BOOST_TEST(static_cast<Source &>(*backups[0].source).asked != 0u);
    Buffer bytes(first->size());
    must(first->read(GuestOffset(0), bytes));
    BOOST_TEST(bytes[0] == 'Q');
    BOOST_TEST(must(first->status(GuestOffset(5), 100)).front().length == 100u);
}

BOOST_AUTO_TEST_SUITE_END()
