// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A disk that is worked on, and flat bytes and flat bitmaps, to which it is held.

#pragma once

#include "core/disk.h"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <memory>

#include "core/base/log.h"
#include "core/check/check.h"
#include "tests/support/disk_driver.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/qemu_img.h"
#include "tests/support/verdict.h"

namespace disk_model {

using namespace qcow2;
using namespace qcow2::test;

inline constexpr std::uint64_t size_max = 6 << 20;

// An image, the same as a model, and a store with drawn properties.
class Bench {
public:
    Bench(Random &random, std::uint32_t cluster_bits, bool limited, std::uint64_t stirred)
        : random_(random),
          spec_(spec_of(random, cluster_bits)),
          limited_(limited),
          stirred_(stirred),
          built_(build_image(spec_))
    {
        image_ = built_.image;
    }

    const ImageSpec &spec() const { return spec_; }
    ReferenceDisk &reference() { return built_.reference; }
    const StoreImage &image() const { return image_; }
    Disk &disk() { return *disk_; }
    bool has_disk() const { return disk_ != nullptr; }
    DiskDriver::Options driver_options() const
    {
        DiskDriver::Options options;
        if (limited_) {
            options.accepted = {Errc::no_space};
            options.refused_is_dirty = false;
        }
        return options;
    }
    Bitmaps bitmaps() const { return limited_ ? Bitmaps::superset : Bitmaps::exact; }

    // A life of the engine begins.
    void open()
    {
        StoreOptions options;
        options.can_flush = !random_.one_in(10);
        options.growth_step = random_.pick<std::uint64_t>({1, 512, 65536, 1 << 20});
        options.discarded = random_.pick({Discarded::zero, Discarded::kept, Discarded::garbage});
        if (limited_) {
            options.can_grow = random_.coin();
            options.size_limit = image_.size + random_.below(2 << 20);
            if (!options.can_grow)
                image_.size = options.size_limit;
        }
        options.stirred = stirred_;
        options.durable_alone = random_.coin();
        size_before_ = image_.size;
        store_ = std::make_unique<MemoryStore>(image_, options);
        DiskOptions disk_options;
        if (random_.coin())
            disk_options.bitmap_sync =
                random_.coin() && options.can_flush ? BitmapSync::durable : BitmapSync::on_close;
        disk_options.arming.region_bytes =
            random_.pick<std::uint64_t>({512, 65536, 1 << 20, 16 << 20});
        disk_options.arming.armings_all_over = random_.pick<unsigned>({0, 5, 1000});
        if (random_.coin())
            disk_options.cache_bytes = random_.pick<std::uint64_t>({1, 65536, 1 << 20});
        if (spec_.version >= 3 && random_.one_in(3))
            want_bitmap(disk_options);
        disk_ = must(Disk::open(*store_, disk_options));
        BOOST_REQUIRE_MESSAGE(!disk_->why_read_only(), words(disk_->why_read_only()));
        BOOST_REQUIRE_EQUAL(disk_->size(), reference().size());
        const Result<void> begun = disk_->begin_writing();
        if (!begun) {
            BOOST_REQUIRE_MESSAGE(limited_ && begun.error().code == Errc::no_space, words(begun));
            forget_wanted(disk_options);
            disk_.reset();
        }
    }

    // Ends it as a clean stop does. False: it could not for lack of room, and
    // what it leaves leaks.
    bool close()
    {
        const Result<void> closed = disk_->close();
        disk_.reset();
        image_ = store_->image();
        if (limited_ && !closed && closed.error().code == Errc::no_space)
            return expect_in_use(), false;
        must(closed);
        const std::string verdict = clean_stop_verdict(image_, reference(), bitmaps());
        BOOST_REQUIRE_MESSAGE(verdict.empty(), verdict << keep(image_, "after_close"));
        check_length();
        return true;
    }

    StoreImage now() const { return store_->image(); }

private:
    static ImageSpec spec_of(Random &random, std::uint32_t cluster_bits)
    {
        return random_spec(random, cluster_bits,
                           std::max(size_max, std::uint64_t(12) << cluster_bits));
    }

    void want_bitmap(DiskOptions &options)
    {
        const std::string name = "made" + std::to_string(random_.below(2));
        const std::uint32_t bits = random_.pick<std::uint32_t>({9, 12, 16, 31});
        wanted_is_new_ = reference().bitmaps().count(name) == 0;
        if (!wanted_is_new_ && reference().bitmaps().at(name).in_use)
            return;
        options.bitmaps = {name};
        options.bitmap_granularity_bits = bits;
        if (wanted_is_new_)
            reference().add_bitmap(name, bits);
    }

    void forget_wanted(const DiskOptions &options)
    {
        if (!options.bitmaps.empty() && wanted_is_new_)
            reference().bitmaps().erase(options.bitmaps.front());
    }

    // B7: there was no room for a bitmap, and it says so itself.
    void expect_in_use()
    {
        ImageView view(image_);
        const CheckReport report = must(check(view));
        BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), report.text());
        bool one = false;
        for (const StoredBitmap &bitmap : must(must(ImageReader::open(view)).bitmaps())) {
            ReferenceBitmap &reference = this->reference().bitmaps().at(bitmap.entry.name);
            if (!bitmap.entry.in_use() || reference.in_use)
                continue;
            one = true;
            reference.in_use = true;
            reference.bits = bitmap.bits;
        }
        BOOST_REQUIRE(one);
    }

    // What was added and is not used was cut off.
    void check_length() const
    {
        if (image_.size <= size_before_)
            return;
        ImageView view(image_);
        const ImageReader reader = must(ImageReader::open(view));
        const std::uint64_t last = (image_.size - 1) >> spec_.cluster_bits;
        BOOST_REQUIRE_MESSAGE(must(reader.refcount(HostCluster(last))) != 0,
                              "the file of " << hex(image_.size) << " bytes ends in free space");
    }

    Random &random_;
    const ImageSpec spec_;
    const bool limited_;
    const std::uint64_t stirred_;
    BuiltImage built_;
    StoreImage image_;
    std::uint64_t size_before_ = 0;
    bool wanted_is_new_ = false;
    std::unique_ptr<MemoryStore> store_;
    std::unique_ptr<Disk> disk_;
};

}  // namespace disk_model
