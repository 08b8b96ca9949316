// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A case for each finding of format/findings.h: a sound image, one thing made
// wrong, and what becomes of it. It is refused, or served for reading only, or
// served but for the place that is wrong. The message has the finding's sentence
// and the place; nothing is written that is not safe; nothing is read that is
// not there. What only a walk over the whole image can see is told by check.

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/disk.h"
#include "core/format/findings.h"
#include "tests/corrupt/cases.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"
#include "tests/support/payload.h"
#include "tests/support/qemu_img.h"
#include "tests/support/recording_store.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(corrupt_test)

namespace {

std::string_view to_string(Fate fate)
{
    switch (fate) {
    case Fate::refused: return "refused";
    case Fate::read_only: return "read_only";
    case Fate::read_only_here: return "read_only_here";
    case Fate::bad_here: return "bad_here";
    case Fate::not_written: return "not_written";
    case Fate::served: return "served";
    }
    return {};
}

// Inside the quotes of JSON.
std::string escaped(const std::string &text)
{
    std::string out;
    for (const char c : text) {
        if (c == '"' || c == '\\')
            out += '\\';
        out += c;
    }
    return out;
}

// --- What becomes of it.

bool has(const std::string &text, std::string_view part)
{
    return text.find(part) != std::string::npos;
}

// One case, being shown.
class Trial : FileOpener {
public:
    Trial(Finding finding, const Case &c) : finding_(finding), case_(c), patient_(c.spec)
    {
        place_ = c.make_wrong(patient_);
        before_ = patient_.store().image();
        if (c.cut_at != 0) {
            before_.bytes.zero(c.cut_at, before_.size - c.cut_at);
            before_.size = c.cut_at;
        }
    }

    const StoreImage &image() const { return before_; }
    const std::string &place() const { return place_; }
    // The guest cluster whose mapping is wrong, if it is that.
    std::uint64_t bad_begin() const { return bad_cluster * patient_.cluster_size(); }

    void run()
    {
        show_check();
        if (case_.fate == Fate::refused) {
            show_refused(false);
            show_refused(true);
            return;
        }
        show_reading(true);
        show_reading(false);
        if (case_.fate == Fate::read_only || case_.fate == Fate::read_only_here)
            show_no_writing();
        else
            show_writing();
    }

private:
    struct Opened {
        explicit Opened(const StoreImage &image) : memory(image), store(memory, true) {}
        MemoryStore memory;
        RecordingStore store;
        std::unique_ptr<Disk> disk;
    };

    Result<void> open(Opened &opened, bool read_only, bool with_bitmap = false)
    {
        DiskOptions options;
        options.read_only = read_only;
        if (case_.with_data_file)
            options.files = this;
        if (with_bitmap)
            options.bitmaps = {"new"};
        opened.disk = TRY(Disk::open(opened.store, options));
        return {};
    }

    Result<NamedFile> open(const std::string &, const ChainPlace &, bool) override
    {
        return NamedFile{std::make_unique<MemoryStore>(case_.spec.size), "/data", "/data", "data"};
    }

    void is_told(const Error &error, bool with_code = true) const
    {
        BOOST_TEST(has(error.what, sentence_of(finding_)), error.what);
        BOOST_TEST(has(error.what, place_), error.what << "\n  lacks the place: " << place_);
        BOOST_TEST((!with_code || error.code == code_of(finding_)), to_string(error.code));
    }

    void is_told(const Result<void> &result) const
    {
        BOOST_REQUIRE_MESSAGE(!result, "must be an error");
        is_told(result.error());
    }

    void nothing_was_written(Opened &opened) const
    {
        const StoreImage after = opened.memory.image();
        BOOST_TEST(after.size == before_.size);
        BOOST_TEST((after.bytes == before_.bytes));
        for (const Operation &operation : opened.store.recording().operations)
            BOOST_TEST(!operation.writes(), to_string(operation));
    }

    void little_was_read(Opened &opened) const
    {
        for (const Operation &operation : opened.store.recording().operations)
            if (operation.kind == Operation::Kind::read)
                BOOST_TEST(operation.length <= case_.read_max, to_string(operation));
    }

    void show_check()
    {
        MemoryStore store(before_);
        const auto report = check(store);
        const std::string text = report ? report->text() : report.error().what;
        if (case_.check_sees)
            BOOST_TEST(has(text, sentence_of(finding_)), "check: " << text);
        if (case_.fate == Fate::served && report)
            BOOST_TEST(has(text, place_), "check: " << text << "\n  lacks the place: " << place_);
    }

    void show_refused(bool read_only)
    {
        Opened opened(before_);
        is_told(open(opened, read_only));
        nothing_was_written(opened);
        little_was_read(opened);
    }

    bool bad_here() const
    {
        return case_.fate == Fate::bad_here || case_.fate == Fate::read_only_here;
    }

    // All that is sound reads as it was; the rest is an error that tells.
    void show_content(Disk &disk) const
    {
        const std::uint64_t step = patient_.cluster_size();
        const std::uint64_t l2_reach = patient_.geometry().l2_reach();
        for (std::uint64_t at = 0; at < std::min(disk.size(), case_.readable); at += step) {
            const bool wrong = case_.fate == Fate::bad_here         ? at == bad_begin()
                               : case_.fate == Fate::read_only_here ? at >= l2_reach
                                                                    : false;
            if (wrong)
                continue;
            Buffer bytes(step);
            must(disk.read(GuestOffset(at), bytes));
            BOOST_REQUIRE_MESSAGE(bytes == patient_.reference().read(GuestOffset(at), step),
                                  "content at " << hex(at));
        }
        if (!bad_here())
            return;
        Buffer bytes(step);
        is_told(disk.read(GuestOffset(bad_begin()), bytes));
        is_told(disk.read(GuestOffset(bad_begin() + 512), sub(MutableBytes(bytes), 0, 512)));
        // Also in the middle of a longer one.
        Buffer longer(3 * step);
        is_told(disk.read(GuestOffset(bad_begin() - step), longer));
    }

    void show_reading(bool read_only)
    {
        Opened opened(before_);
        must(open(opened, read_only));
        show_content(*opened.disk);
        must(opened.disk->flush());
        must(opened.disk->close());
        nothing_was_written(opened);
        little_was_read(opened);
    }

    void show_no_writing()
    {
        Opened opened(before_);
        must(open(opened, false));
        Disk &disk = *opened.disk;
        BOOST_REQUIRE(disk.why_read_only());
        is_told(*disk.why_read_only());
        must(disk.begin_writing());
        is_told(disk.write(GuestOffset(0), Buffer(512, 1), true));
        is_told(disk.zero(GuestOffset(0), 4096, {}));
        is_told(disk.trim(GuestOffset(0), 4096, false));
        show_content(disk);
        must(disk.flush());
        must(disk.settle());
        must(disk.close());
        nothing_was_written(opened);

        // A key that asks for a change is an error.
        Opened asked(before_);
        const Result<void> result = open(asked, false, true);
        BOOST_REQUIRE(!result);
        is_told(result.error());
        nothing_was_written(asked);
    }

    // Sound parts are written; what is wrong stays, and nothing else becomes
    // wrong.
    void show_writing()
    {
        MemoryStore unchanged(before_);
        const CheckReport was = must(check(unchanged));
        Opened opened(before_);
        must(open(opened, false));
        Disk &disk = *opened.disk;
        BOOST_TEST(!disk.why_read_only());
        must(disk.begin_writing());

        if (case_.fate == Fate::bad_here) {
            const GuestOffset bad(bad_begin() + 512);
            is_told(disk.write(bad, Buffer(512, 1), true));
            is_told(disk.zero(bad, 512, {}));
        } else if (case_.fate == Fate::not_written) {
            show_not_written(opened);
            return;
        }
        const GuestOffset sound(patient_.cluster_size() + 100);
        const Buffer bytes(5000, 0x77);
        must(disk.write(sound, bytes, false));
        Buffer found(bytes.size());
        must(disk.read(sound, found));
        BOOST_TEST((found == bytes));
        must(disk.settle());
        must(disk.close());

        const CheckReport is = must(check(opened.memory));
        for (const CheckFinding &f : is.findings)
            BOOST_TEST(std::any_of(was.findings.begin(), was.findings.end(),
                                   [&](const CheckFinding &w) { return w.finding == f.finding; }),
                       "new: " << is.text());
    }

    // Metadata would be overwritten: the write that would do it is an error, and
    // the metadata are as they were.
    void show_not_written(Opened &opened)
    {
        Disk &disk = *opened.disk;
        if (finding_ == Finding::data_cluster_is_metadata) {
            is_told(disk.write(GuestOffset(bad_begin()), Buffer(512, 1), true));
        } else {
            Buffer cluster(patient_.cluster_size(), 1);
            is_told(disk.write(GuestOffset(20 * patient_.cluster_size()), cluster, true));
        }
        // But for the header (the corrupt bit) nothing has changed.
        const StoreImage after = opened.memory.image();
        const std::uint64_t end = std::min(before_.size, after.size);
        BOOST_TEST((after.bytes.copy(512, end - 512) == before_.bytes.copy(512, end - 512)));
        show_content(disk);
    }

    const Finding finding_;
    const Case &case_;
    Patient patient_;
    std::string place_;
    StoreImage before_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(each_finding_has_a_case)
{
#define X(name, code, sentence) BOOST_TEST(cases().contains(Finding::name), "no case for " #name);
    QCOW2_FINDINGS(X)
#undef X
    BOOST_TEST(cases().size() == finding_kinds);
}

// A case each, by its name.
#define X(name, code, sentence)                         \
    BOOST_AUTO_TEST_CASE(name)                          \
    {                                                   \
        const auto found = cases().find(Finding::name); \
        BOOST_REQUIRE(found != cases().end());          \
        Trial(found->first, found->second).run();       \
    }
QCOW2_FINDINGS(X)
#undef X

// For interop/test-findings.py: the images as files in the folder that CASES
// names, and a list of what becomes of them, a line each, in JSON.
BOOST_AUTO_TEST_CASE(files_for_the_server, *boost::unit_test::disabled())
{
    const char *folder = std::getenv("CASES");
    BOOST_REQUIRE(folder);
    std::ofstream list(std::string(folder) + "/cases");
    for (const auto &[finding, c] : cases()) {
        const Trial trial(finding, c);
        const std::string name(name_of(finding));
        BOOST_REQUIRE(dump(trial.image(), std::string(folder) + "/" + name + ".qcow2"));
        list << "{\"name\": \"" << name << "\", \"fate\": \"" << to_string(c.fate)
             << "\", \"place\": \"" << escaped(trial.place()) << "\", \"sentence\": \""
             << escaped(std::string(sentence_of(finding)))
             << "\", \"bad_offset\": " << trial.bad_begin()
             << ", \"cluster_size\": " << (std::uint64_t(1) << c.spec.cluster_bits)
             << ", \"data_file\": " << (c.with_data_file ? "true" : "false") << "}\n";
    }
    BOOST_REQUIRE(list.flush());
}

// The images are sound before one thing is made wrong.
BOOST_AUTO_TEST_CASE(nothing_else_is_wrong)
{
    for (const auto &[finding, c] : cases()) {
        Patient patient(c.spec);
        if (finding == Finding::extension_duplicate)
            continue;  // the extensions are all that is wrong with it
        const CheckReport report = must(check(patient.store()));
        BOOST_TEST(report.sound(), name_of(finding) << ": " << report.text());
    }
}

BOOST_AUTO_TEST_SUITE_END()
