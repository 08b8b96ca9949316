// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Backups of a real disk against flat copies: begun and ended, well or not, among
// random changes, other backups, bitmaps and snapshots made, growth, kills.
//
// F1  What a backup shows is the copy that was taken at its instant: bytes, and bits.
// F4  In the file a bitmap has at every moment all that has changed since the last
//     backup that was said to have succeeded; after a clean stop it has no more.

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/check/check.h"
#include "core/disk.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/random.h"
#include "tests/support/frozen_disk_driver.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(backup_model)

namespace {

constexpr std::uint64_t size_max = 600 << 10;
constexpr std::uint64_t grown_max = size_max + (200 << 10);

// What a bitmap may say: at least must, at most may. They differ where a trim may have
// done nothing, and after a kill.
struct Granules {
    std::set<std::uint64_t> must, may;

    void add(Range granules, bool surely)
    {
        for (std::uint64_t g = granules.begin; g < granules.end; ++g) {
            may.insert(g);
            if (surely)
                must.insert(g);
        }
    }
};

struct ModelBitmap {
    std::uint64_t granularity = 0;
    Granules granules;
    std::string taken_by;  // the backup
    Granules since;        // its instant
};

struct ModelBackup {
    bool incremental = false;
    bool whole = true;
    Buffer content;
    std::map<std::string, Granules> bits;
};

class Bench {
public:
    explicit Bench(std::uint64_t seed) : random_(seed)
    {
        spec_ = random_spec(random_, random_.pick<std::uint32_t>({9, 12, 16}), size_max);
        spec_.version = 3;
        spec_.refcount_order = std::max(spec_.refcount_order, 3u);
        spec_.size = std::max<std::uint64_t>(align_up(spec_.size, 512), 4096);
        spec_.bitmaps.clear();
        store_.emplace(build_image(spec_).image);
        open();
        content_.resize(disk_->size());
        must(disk_->read(GuestOffset(0), content_));
    }

    void live()
    {
        BOOST_TEST_INFO_SCOPE(spec_.text());
        for (std::uint64_t steps = random_.between(30, 60); steps > 0; --steps)
            step();
        stop();
    }

private:
    void open()
    {
        DiskOptions options;
        options.scratch = &maker_;
        options.arming.region_bytes = 1 << 14;
        disk_ = must(Disk::open(*store_, options));
        must(disk_->begin_writing());
    }

    void step()
    {
        const std::uint64_t what = random_.below(100);
        if (what < 50)
            change();
        else if (what < 60)
            begin();
        else if (what < 70)
            end();
        else if (what < 80)
            look();
        else if (what < 84)
            add_bitmap();
        else if (what < 87)
            must(disk_->settle());
        else if (what < 90)
            must(disk_->cool());
        else if (what < 93)
            must(disk_->create_snapshot({"s", 1700000000, 0}));
        else if (what < 95)
            grow();
        else
            reopen(what < 98);
    }

    void change()
    {
        const std::uint64_t at = random_.below(content_.size());
        const Range range =
            Range::of(at, random_.between(1, std::min<std::uint64_t>(content_.size() - at, 70000)));
        const std::uint64_t how = random_.below(4);
        if (how < 2) {
            const Buffer bytes(range.length(), static_cast<std::uint8_t>(random_.between(1, 255)));
            must(disk_->write(GuestOffset(range.begin), bytes, random_.one_in(8)));
            std::ranges::copy(bytes, content_.begin() + range.begin);
        } else if (how == 2) {
            must(disk_->zero(GuestOffset(range.begin), range.length(),
                             {.may_unmap = random_.one_in(2)}));
            std::fill_n(content_.begin() + range.begin, range.length(), 0);
        } else {
            must(disk_->trim(GuestOffset(range.begin), range.length(), random_.one_in(2)));
            Buffer now(range.length());
            must(disk_->read(GuestOffset(range.begin), now));
            note_trim(range, now);
            std::ranges::copy(now, content_.begin() + range.begin);
            return;
        }
        note(range, true);
    }

    void note(Range range, bool surely)
    {
        for (auto &[name, bitmap] : bitmaps_) {
            bitmap.granules.add(range.touched(bitmap.granularity), surely);
            if (!bitmap.taken_by.empty())
                bitmap.since.add(range.touched(bitmap.granularity), surely);
        }
    }

    // What reads otherwise has changed; the rest may have.
    void note_trim(Range range, const Buffer &now)
    {
        note(range, false);
        for (std::uint64_t i = 0; i < now.size(); ++i)
            if (now[i] != content_[range.begin + i])
                note(Range::of(range.begin + i, 1), true);
    }

    void add_bitmap()
    {
        const std::string name = "b" + std::to_string(bitmaps_.size());
        NewBitmap bitmap{.name = name,
                         .granularity_bits = random_.pick<std::uint32_t>({9, 12, 16})};
        must(disk_->change_together({AddBitmap{bitmap}}));
        bitmaps_[name].granularity = std::uint64_t(1) << *bitmap.granularity_bits;
    }

    std::uint64_t granules_of(const ModelBitmap &bitmap) const
    {
        return div_ceil(std::uint64_t(content_.size()), bitmap.granularity);
    }

    void begin()
    {
        BackupRequest request;
        request.id = "id" + std::to_string(++begun_);
        for (auto &[name, bitmap] : bitmaps_)
            if (bitmap.taken_by.empty() && random_.one_in(2))
                request.bitmaps.push_back(name);
        request.incremental = !request.bitmaps.empty() && random_.one_in(2);
        request.whole = random_.one_in(2);
        const bool makes = !request.incremental && random_.one_in(4);
        if (makes)
            request.bitmaps.push_back("made" + request.id);
        must(disk_->begin_backup(request));
        if (makes)
            add_made(request.bitmaps.back());
        ModelBackup &backup = backups_[request.id];
        backup.incremental = request.incremental;
        backup.whole = request.whole;
        backup.content = content_;
        for (const std::string &name : request.bitmaps) {
            ModelBitmap &bitmap = bitmaps_.at(name);
            bitmap.taken_by = request.id;
            bitmap.since = {};
            backup.bits[name] = bitmap.granules;
        }
        look(request.id);
    }

    // All dirty until its backup has succeeded.
    void add_made(const std::string &name)
    {
        for (const BitmapState &state : must(disk_->bitmap_states()))
            if (state.name == name)
                bitmaps_[name].granularity = state.granularity;
        ModelBitmap &bitmap = bitmaps_.at(name);
        bitmap.granules.add({0, granules_of(bitmap)}, true);
    }

    void look()
    {
        if (!backups_.empty())
            look(std::next(backups_.begin(), random_.below(backups_.size()))->first);
    }

    void look(const std::string &id)
    {
        const ModelBackup &model = backups_.at(id);
        const auto backup = disk_->backup(id);
        BOOST_REQUIRE(backup);
        BOOST_REQUIRE(backup->disk->size() == model.content.size());
        for (const FrozenBitmap &bitmap : backup->bitmaps)
            look_at_bits(bitmap, model.bits.at(bitmap.name));
        if (!model.incremental || model.whole)
            look_at_content(*backup->disk, {0, model.content.size()}, model.content);
        else
            for (const FrozenBitmap &bitmap : backup->bitmaps)
                for (std::uint64_t g = bitmap.bits->next_set(0); g < bitmap.bits->size();
                     g = bitmap.bits->next_set(g + 1))
                    look_at_content(
                        *backup->disk,
                        intersection(Range::of(g * bitmap.granularity, bitmap.granularity),
                                     {0, model.content.size()}),
                        model.content);
    }

    void look_at_content(FrozenDisk &disk, Range range, const Buffer &content)
    {
        Buffer bytes(range.length());
        must(disk.read(GuestOffset(range.begin), bytes));
        BOOST_REQUIRE(std::equal(bytes.begin(), bytes.end(), content.begin() + range.begin));
        std::uint64_t at = range.begin;
        while (at < range.end)
            for (const Extent &extent : must(disk.status(at, range.end - at))) {
                if (extent.zero)
                    BOOST_REQUIRE(std::all_of(content.begin() + at,
                                              content.begin() + at + extent.length,
                                              [](std::uint8_t byte) { return byte == 0; }));
                at += extent.length;
            }
    }

    void look_at_bits(const FrozenBitmap &bitmap, const Granules &model)
    {
        for (const std::uint64_t g : model.must)
            BOOST_REQUIRE(bitmap.bits->next_set(g) == g);
        for (std::uint64_t g = bitmap.bits->next_set(0); g < bitmap.bits->size();
             g = bitmap.bits->next_set(g + 1))
            BOOST_REQUIRE(model.may.contains(g));
    }

    void end()
    {
        if (backups_.empty())
            return;
        const std::string id = std::next(backups_.begin(), random_.below(backups_.size()))->first;
        const bool success = random_.one_in(2);
        look(id);
        must(disk_->end_backup(id, success));
        BOOST_REQUIRE(!disk_->backup(id));
        forget(id, success);
    }

    void forget(const std::string &id, bool success)
    {
        for (auto &[name, bitmap] : bitmaps_)
            if (bitmap.taken_by == id) {
                bitmap.taken_by.clear();
                if (success)
                    bitmap.granules = bitmap.since;
            }
        backups_.erase(id);
    }

    void grow()
    {
        if (content_.size() >= grown_max)
            return;
        content_.resize(content_.size() + 512 * random_.between(1, 100));
        must(disk_->resize(content_.size()));
    }

    void reopen(bool killed)
    {
        killed_ |= killed;
        if (killed)
            disk_.reset();
        else
            stop();
        while (!backups_.empty())
            forget(backups_.begin()->first, false);
        const auto in_file = bits_in_file();
        for (auto &[name, bitmap] : bitmaps_) {
            check(name, bitmap, in_file, killed);
            bitmap.granules.may = in_file.at(name);
        }
        open();
        // What was not flushed may be gone with the process, and was marked all the same.
        must(disk_->read(GuestOffset(0), content_));
    }

    // F4: no end of a backup but a success shows in the file.
    void stop()
    {
        must(disk_->close());
        disk_.reset();
        while (!backups_.empty())
            forget(backups_.begin()->first, false);
        const auto in_file = bits_in_file();
        for (auto &[name, bitmap] : bitmaps_)
            check(name, bitmap, in_file, false);
        const StoreImage image = store_->image();
        ImageView view(image);
        const CheckReport report = must(qcow2::check(view));
        BOOST_TEST((killed_ ? report.leaks_at_worst() : report.sound()), report.text());
    }

    using Bits = std::map<std::string, std::set<std::uint64_t>>;
    Bits bits_in_file()
    {
        const StoreImage image = store_->image();
        ImageView view(image);
        Bits bits;
        for (const auto &bitmap : must(must(ImageReader::open(view)).bitmaps())) {
            BOOST_REQUIRE(!bitmap.entry.in_use());
            auto &set = bits[bitmap.entry.name];
            for (std::uint64_t g = bitmap.bits.next_set(0); g < bitmap.bits.size();
                 g = bitmap.bits.next_set(g + 1))
                set.insert(g);
        }
        return bits;
    }

    void check(const std::string &name, const ModelBitmap &model, const Bits &in_file, bool killed)
    {
        BOOST_TEST_INFO_SCOPE(name);
        BOOST_REQUIRE(in_file.contains(name));
        BOOST_REQUIRE(std::ranges::includes(in_file.at(name), model.granules.must));
        if (!killed)
            BOOST_REQUIRE(std::ranges::includes(model.granules.may, in_file.at(name)));
    }

    Random random_;
    ImageSpec spec_;
    MemoryScratchMaker maker_;
    std::optional<MemoryStore> store_;
    std::unique_ptr<Disk> disk_;
    Buffer content_;
    std::map<std::string, ModelBitmap> bitmaps_;
    std::map<std::string, ModelBackup> backups_;
    unsigned begun_ = 0;
    bool killed_ = false;  // then there may be leaks
};

}  // namespace

BOOST_AUTO_TEST_CASE(F1_F4_backups_among_changes, *one_thread())
{
    for (const std::uint64_t seed : seeds(60)) {
        SEEDED(seed);
        Bench(seed).live();
    }
}

BOOST_AUTO_TEST_SUITE_END()
