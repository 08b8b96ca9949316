// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Internal snapshots against flat copies: made, applied and deleted among
// random changes of the disk, in files that grow and in files that are full.

#include <algorithm>
#include <optional>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/disk.h"
#include "core/format/findings.h"
#include "tests/support/disk_driver.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(snapshot_model)

namespace {

constexpr std::uint64_t size_max = 1 << 20;

struct Kept {
    std::string id;
    std::string name;
    Buffer content;
};

class Bench {
public:
    explicit Bench(std::uint64_t seed)
        : random_(seed),
          limited_(random_.one_in(3)),
          spec_(drawn_spec()),
          built_(build_image(spec_)),
          image_(built_.image)
    {
        active_.emplace(built_.reference);
        if (spec_has_snapshot())
            kept_.push_back({"1", "before", content("1")});
    }

    const ImageSpec &spec() const { return spec_; }

    void live()
    {
        open();
        for (std::uint64_t rounds = random_.between(2, 8); rounds > 0; --rounds) {
            write();
            change();
        }
        close();
    }

private:
    ImageSpec drawn_spec()
    {
        ImageSpec spec = random_spec(random_, 0, size_max);
        if (spec.cluster_bits > 16)
            spec = random_spec(random_, 16, size_max);
        spec.size = align_up(spec.size, 512);
        spec.bitmaps.resize(std::min<std::size_t>(spec.bitmaps.size(), spec.size == 0 ? 0 : 3));
        return spec;
    }
    bool spec_has_snapshot()
    {
        ImageView view(image_);
        return must(ImageReader::open(view)).area().header.nb_snapshots != 0;
    }

    void open()
    {
        StoreOptions options;
        options.discarded = Discarded::garbage;
        if (limited_) {
            options.can_grow = false;
            image_.size += random_.below(300000);
            options.size_limit = image_.size;
        }
        store_ = std::make_unique<MemoryStore>(image_, options);
        disk_ = must(Disk::open(*store_, {}));
        BOOST_REQUIRE_MESSAGE(!disk_->why_read_only(), words(disk_->why_read_only()));
        must(disk_->begin_writing());
    }

    void write()
    {
        if (active_->size() == 0)
            return;
        DiskDriver::Options options;
        options.length_max = random_.pick<std::uint64_t>({5000, 50000, 300000});
        if (limited_) {
            options.accepted = {Errc::no_space};
            options.refused_is_dirty = false;
        }
        DiskDriver driver(*disk_, *active_, random_, generation_, options);
        for (std::uint64_t steps = random_.below(12); steps > 0; --steps)
            driver.step({0, active_->size()});
    }

    // What may be: no room, or refcounts that are too narrow.
    bool done(const Result<void> &result)
    {
        if (result)
            return true;
        const bool accepted =
            (limited_ && result.error().code == Errc::no_space) ||
            (spec_.refcount_order < 4 && result.error().code == Errc::unsupported);
        BOOST_REQUIRE_MESSAGE(accepted, words(result));
        return false;
    }

    void change()
    {
        const std::uint64_t which = random_.below(kept_.empty() ? 1 : 4);
        Kept *chosen = kept_.empty() ? nullptr : &kept_[random_.below(kept_.size())];
        // By ID, which is unique, or by name, if no ID is like it.
        const auto word = [&] { return chosen->id; };
        if (which <= 1) {
            const std::string name = "s" + std::to_string(random_.below(3));
            if (done(disk_->create_snapshot({name, 1700000000, 0}))) {
                const auto snapshots = must(disk_->snapshots());
                BOOST_REQUIRE(snapshots.back().name == name);
                kept_.push_back(
                    {snapshots.back().id, name, active_->read(GuestOffset(0), active_->size())});
            }
        } else if (which == 2) {
            if (done(disk_->delete_snapshot(word())))
                kept_.erase(kept_.begin() + (chosen - kept_.data()));
        } else if (done(disk_->revert(word()))) {
            become(*chosen);
        }
        judge();
    }

    void become(const Kept &snapshot)
    {
        ReferenceDisk fresh(snapshot.content.size());
        fresh.preset(GuestOffset(0), snapshot.content);
        for (auto [name, bitmap] : active_->bitmaps()) {
            if (bitmap.enabled && !bitmap.in_use)
                bitmap.bits.set({0, bitmap.bits.size()});
            fresh.bitmaps()[name] = bitmap;
        }
        active_.emplace(std::move(fresh));
    }

    Buffer content(const std::string &snapshot)
    {
        MemoryStore store(image_);
        DiskOptions options;
        options.snapshot = snapshot;
        const auto disk = must(Disk::open(store, options));
        Buffer bytes(disk->size());
        must(disk->read(GuestOffset(0), bytes));
        return bytes;
    }

    // After an operation the file is as a clean stop leaves it, but for its length.
    void judge()
    {
        image_ = store_->image();
        const Bitmaps bitmaps = limited_ ? Bitmaps::superset : Bitmaps::exact;
        if (!disk_->settled())  // the operation was refused, or there was no room
            return;
        const std::string verdict = clean_stop_verdict(image_, *active_, bitmaps);
        BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict);
        const auto snapshots = must(disk_->snapshots());
        BOOST_REQUIRE_EQUAL(snapshots.size(), kept_.size());
        for (std::size_t i = 0; i < kept_.size(); ++i) {
            BOOST_REQUIRE_EQUAL(snapshots[i].id, kept_[i].id);
            BOOST_REQUIRE_EQUAL(snapshots[i].name, kept_[i].name);
            const Buffer found = content(kept_[i].id);
            BOOST_REQUIRE_MESSAGE(
                found == kept_[i].content,
                words_for(snapshots[i])
                    << ": " << payload_difference(GuestOffset(0), kept_[i].content, found));
        }
    }

    void close()
    {
        if (!done(disk_->close()))
            return;
        judge();
        if (spec_.qemu_opens() && random_.one_in(4)) {
            const std::string by_qemu = qemu_verdict(store_->image(), false);
            BOOST_REQUIRE_MESSAGE(by_qemu.empty(), by_qemu);
        }
    }

    Random random_;
    const bool limited_;
    const ImageSpec spec_;
    const BuiltImage built_;
    StoreImage image_;
    std::optional<ReferenceDisk> active_;
    std::vector<Kept> kept_;
    std::atomic<std::uint32_t> generation_{1};
    std::unique_ptr<MemoryStore> store_;
    std::unique_ptr<Disk> disk_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(snapshots_among_random_changes, *one_thread())
{
    for (const std::uint64_t seed : seeds(60)) {
        SEEDED(seed);
        Bench bench(seed);
        BOOST_TEST_INFO_SCOPE(bench.spec().text());
        bench.live();
    }
}

BOOST_AUTO_TEST_SUITE_END()
