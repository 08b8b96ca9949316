// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// All that is said about images whose names are meant to harm: they clear the
// screen, begin a line of their own, run a command where somebody copies what
// the message tells him to type. Whatever an image says goes through quote() or
// shell_word() (core/base/log.h), in each message there is: errors, warnings,
// debug messages, reports and what check finds.

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <sstream>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/check/repair.h"
#include "core/disk.h"
#include "core/structure/operations.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(hostile_names)

namespace {

// A path; a title for the terminal, a line, a command, the end of quotes, a control that
// has two bytes.
const std::string hostile = "d/\x1b]0;harm\a\nnbdkit: harm$(harm)'harm`\"\\\xc2\x9b";

// Of an image that has bitmaps: hostile + "0" and so on.
constexpr int bitmaps = 8;

// "(ID 1)" becomes this.
const std::string hostile_id = "\x1b";

std::vector<std::string> said;

void listen(LogLevel, const std::string &line) { said.push_back(line); }

template <class T>
bool heard(const Result<T> &result)
{
    if (!result)
        said.push_back(result.error().what);
    return result.has_value();
}

void heard_lines(const std::string &text)
{
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
        said.push_back(line);
}

// Opens whatever is named, and there is nothing in it.
class Opener final : public FileOpener {
public:
    Result<NamedFile> open(const std::string &name, const ChainPlace &, bool) override
    {
        auto store = std::make_unique<MemoryStore>(StoreImage(), StoreOptions());
        return NamedFile{std::move(store), shell_word("/images/" + name), "/images/" + name,
                         "another"};
    }
};

// All that can be asked of a disk, as far as it goes.
void use(const StoreImage &image, const DiskOptions &options)
{
    MemoryStore store(image, StoreOptions());
    auto opened = Disk::open(store, options);
    if (!heard(opened))
        return;
    Disk &disk = **opened;
    if (disk.why_read_only())
        said.push_back(disk.why_read_only()->what);
    for (const ReportLine &line : disk.report(true))
        said.push_back(line.text);
    for (const std::string &line : disk.announcements())
        said.push_back(line);
    heard(disk.begin_writing());
    heard(disk.snapshots());
    Buffer byte(1);
    heard(disk.read(GuestOffset(0), byte));
    heard(disk.write(GuestOffset(0), byte, true));
    heard(disk.check_resize(std::uint64_t(1) << 50));
    heard(disk.resize(512));
    for (const std::string &name : {std::string("none"), hostile, hostile_id}) {
        heard(disk.delete_snapshot(name + "none"));
        heard(disk.revert(name));
        heard(disk.delete_snapshot(name));
    }
    using Change = Result<void> (*)(Image &, const std::string &);
    for (const Change change : {enable_bitmap, disable_bitmap, clear_bitmap, remove_bitmap})
        for (const std::string &name : {hostile + "0", hostile + "1", hostile + "none"})
            heard(disk.restructure([&](Image &it) { return change(it, name); }));
    heard(disk.settle());
    heard(disk.close());
}

void use_in_all_ways(const StoreImage &image, FileOpener *opener,
                     const std::vector<std::string> &bitmaps)
{
    DiskOptions plain;
    plain.files = opener;
    plain.path = "/images/disk.qcow2";
    std::vector<DiskOptions> ways(4, plain);
    ways[1].recover_all_dirty = true;
    ways[2].size_min = std::uint64_t(1) << 40;
    ways[3].bitmap_granularity_bits = 20;
    for (const std::string &name : bitmaps) {
        ways.push_back(plain);
        ways.back().bitmaps = {name};
        ways.push_back(ways[3]);
        ways.back().bitmaps = {name};
        ways.push_back(ways[1]);
        ways.back().bitmaps = {name};
    }
    for (const std::string &name : {std::string("none"), hostile, hostile_id}) {
        ways.push_back(plain);
        ways.back().snapshot = name;
    }
    for (DiskOptions &way : ways) {
        for (const bool read_only : {false, true}) {
            way.read_only = read_only;
            use(image, way);
        }
    }
    for (const RepairKind kind : {RepairKind::leaks, RepairKind::all}) {
        MemoryStore store(image, StoreOptions());
        if (const auto report = check(store); heard(report))
            heard_lines(report->text());
        if (const auto repaired = repair(store, kind); heard(repaired))
            heard_lines(repaired->before.text() + repaired->after.text());
    }
}

void remove_all(std::string &text, const std::string &part)
{
    for (std::size_t at; (at = text.find(part)) != text.npos;)
        text.erase(at, part.size());
}

// Some of what was said must be of the names of the image, or of those that it was asked for.
void expect_all_quoted(const std::string &another = hostile)
{
    std::vector<std::string> names = {another, hostile, hostile + "none", hostile_id,
                                      hostile_id + "none"};
    for (int i = 0; i < bitmaps; ++i)
        names.push_back(hostile + std::to_string(i));
    std::size_t of_them = 0;
    for (const std::string &line : said) {
        std::string rest = line;
        for (const std::string &name : names) {
            remove_all(rest, quote(name));
            remove_all(rest, shell_word("/images/" + name));
        }
        of_them += rest != line;
        BOOST_TEST(rest.find("harm") == rest.npos, "not quoted: " << printable(line));
        BOOST_TEST(printable(rest) == rest, "not printable: " << printable(line));
    }
    BOOST_TEST(of_them > 0u);
    said.clear();
}

ImageSpec plain()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 1 << 20;
    spec.clusters = {{0, Preset::data}, {1, Preset::data}};
    return spec;
}

class Listening {
public:
    Listening()
    {
        said.clear();
        set_log_sink(listen);
    }
    ~Listening() { set_log_sink(nullptr); }
    Listening(const Listening &) = delete;
    Listening &operator=(const Listening &) = delete;
};

void name_backing_file(Patient &patient, const std::string &name)
{
    must(patient.store().write(2048, Buffer(name.begin(), name.end())));
    patient.put(8, 2048);
    patient.put_32(16, static_cast<std::uint32_t>(name.size()));
}

Extension extension(ExtensionType type, const std::string &text)
{
    return {type, Buffer(text.begin(), text.end())};
}

}  // namespace

BOOST_AUTO_TEST_CASE(of_bitmaps)
{
    const Listening listening;
    ImageSpec spec = plain();
    std::vector<std::string> names;
    // Enabled, inconsistent, disabled, and those that are made wrong below.
    for (int i = 0; i < bitmaps; ++i) {
        BitmapSpec bitmap;
        bitmap.name = hostile + std::to_string(i);
        bitmap.granularity_bits = 12;
        bitmap.set = {{0, 3}};
        bitmap.in_use = i == 1 || i == 4;
        bitmap.enabled = i != 2;
        names.push_back(bitmap.name);
        spec.bitmaps.push_back(bitmap);
    }
    Patient sound(spec);
    use_in_all_ways(sound.store().image(), nullptr, names);
    expect_all_quoted();

    // What can be wrong with one: its type, its granularity, its table and where that leads.
    struct Field {
        std::uint64_t at;
        std::uint8_t value;
    };
    const std::uint64_t record = align_up(24 + names[0].size(), 8);
    for (const Field field : {Field{16, 7},
                              {17, 40},
                              {7, 3},
                              {11, 200},
                              {15, 0x83},
                              {0, 0x20},
                              {24 + names[0].size(), 1}}) {
        for (const std::uint64_t index : {0, 1, 2, 5}) {
            Patient patient(spec);
            patient.put_byte(patient.directory() + index * record + field.at, field.value);
            use_in_all_ways(patient.store().image(), nullptr, {names[index]});
        }
    }
    // Of two with one name, and of one that leads to nowhere.
    spec.bitmaps[1].name = spec.bitmaps[0].name;
    Patient twice(spec);
    use_in_all_ways(twice.store().image(), nullptr, names);
    spec.bitmaps[1].name = names[1];
    Patient nowhere(spec);
    nowhere.put(nowhere.bitmap().bitmap_table_offset.value, std::uint64_t(1) << 40);
    use_in_all_ways(nowhere.store().image(), nullptr, names);
    expect_all_quoted();
}

BOOST_AUTO_TEST_CASE(of_snapshots)
{
    const Listening listening;
    MemoryStore store(build_image(plain()).image, StoreOptions());
    {
        const auto disk = must(Disk::open(store, {}));
        must(disk->begin_writing());
        must(disk->create_snapshot({hostile, 1700000000, 0}));
        must(disk->close());
    }
    // The ID, one letter, stands before the name.
    Buffer bytes(store.size());
    must(store.read(0, bytes));
    const Buffer wanted(hostile.begin(), hostile.end());
    const auto name = std::search(bytes.begin(), bytes.end(), wanted.begin(), wanted.end());
    BOOST_REQUIRE(name != bytes.end());
    const auto at = static_cast<std::uint64_t>(name - bytes.begin());
    must(store.write(at - 1, Buffer(hostile_id.begin(), hostile_id.end())));
    use_in_all_ways(store.image(), nullptr, {"b0"});
    expect_all_quoted();

    // Its L1 table is no table, or leads to nowhere.
    must(store.write(at - 1 - 16 - 40, Buffer{0, 0, 0, 0, 0, 0, 0, 1}));
    use_in_all_ways(store.image(), nullptr, {"b0"});
    must(store.write(at - 1 - 16 - 40, Buffer{0, 0, 1, 0, 0, 0, 0, 0}));
    use_in_all_ways(store.image(), nullptr, {"b0"});
    expect_all_quoted();
}

BOOST_AUTO_TEST_CASE(of_backing_files_and_their_formats)
{
    const Listening listening;
    Opener opener;
    for (const std::string prefix : {"", "file:", "nbd:", "json:"}) {
        for (const std::string format : {"", "raw", "qcow2", "harm"}) {
            for (FileOpener *const files :
                 {static_cast<FileOpener *>(nullptr), static_cast<FileOpener *>(&opener)}) {
                ImageSpec spec = plain();
                const std::string said_format = format == "harm" ? hostile : format;
                if (!format.empty())
                    spec.more_extensions = {extension(ExtensionType::backing_format, said_format)};
                Patient patient(spec);
                name_backing_file(patient, prefix + hostile);
                use_in_all_ways(patient.store().image(), files, {"b0"});
                // (Where it is opened and empty, nothing is said of it.)
                if (files && prefix.empty() && format == "raw")
                    said.push_back(quote(hostile));
                expect_all_quoted(prefix + hostile);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(of_data_files_and_features)
{
    const Listening listening;
    Opener opener;
    for (FileOpener *const files :
         {static_cast<FileOpener *>(nullptr), static_cast<FileOpener *>(&opener)}) {
        ImageSpec spec = plain();
        spec.more_extensions = {extension(ExtensionType::data_file, hostile)};
        Patient patient(spec);
        patient.put(72, incompatible::external_data_file);
        use_in_all_ways(patient.store().image(), files, {"b0"});
        if (files)
            said.push_back(quote(hostile));
        expect_all_quoted();
    }

    ImageSpec spec = plain();
    spec.feature_names = 0;
    std::string entry = std::string("\0\x09", 2) + hostile;
    entry.resize(48);
    spec.more_extensions = {extension(ExtensionType::feature_names, entry)};
    Patient patient(spec);
    patient.put(72, 1 << 9);
    use_in_all_ways(patient.store().image(), nullptr, {"b0"});
    expect_all_quoted();
}

BOOST_AUTO_TEST_SUITE_END()
