// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Placing against a disk: when it has returned, the disk shows what it showed,
// and the change that it was for finds all the room that it needs, even if not a
// cluster is free any more (B7).

#include "core/image/open_image.h"

#include "core/base/log.h"
#include "core/check/check.h"
#include "tests/support/fault_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/qemu_img.h"
#include "tests/support/qemu_made.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(place_model)

namespace {

// Opens the data file, which has room as long as the image has.
class DataFileOpener final : public FileOpener {
public:
    DataFileOpener(const StoreImage &image, FaultPlan &plan) : memory_(image), plan_(plan) {}

    Result<NamedFile> open(const std::string &name, const ChainPlace &, bool) override
    {
        return NamedFile{std::make_unique<FaultStore>(memory_, plan_), "/" + name, "/" + name,
                         name};
    }

private:
    MemoryStore memory_;
    FaultPlan &plan_;
};

class Bench {
public:
    Bench(const StoreImage &image, const ReferenceDisk &reference, Random &random,
          FileOpener *files, const StoreImage &data_file = {})
        : random_(random),
          reference_(reference),
          memory_(image),
          store_(memory_, plan_),
          data_file_(data_file, plan_)
    {
        ImageOptions options;
        options.place = {files ? files : &data_file_, "/disk.qcow2", {}};
        options.keep_clusters = random.one_in(4);
        image_ = must(open_image(store_, options));
        BOOST_REQUIRE(!image_->why_read_only());
        must(image_->begin_writing());
    }

    void step()
    {
        const Range range =
            random_.range(reference_.size(), 100000, image_->geometry().cluster_size());
        make(random_.pick({Change::write, Change::zero, Change::trim}), range);
    }

    enum class Change { write, zero, trim };
    void make(Change which, Range range)
    {
        const auto [name, place, change] = steps_of(which, range);
        BOOST_TEST_INFO_SCOPE(name << " of " << hex(range.begin) << " to " << hex(range.end));
        must(place());
        show_content();
        const auto taken = take_all();
        const Result<void> changed = change();
        BOOST_REQUIRE_MESSAGE(changed, words(changed));
        plan_.disarm();
        for (const HostRun &run : taken)
            image_->allocator().give_back(run);
        show_content();
        if (random_.one_in(4))
            must(image_->flush());
    }

    void close()
    {
        must(image_->settle());
        const StoreImage now = memory_.image();
        ImageView view(now);
        const CheckReport report = must(check(view));
        BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), report.text());
    }

private:
    struct Steps {
        const char *name;
        std::function<Result<void>()> place, change;
    };
    Steps steps_of(Change which, Range range)
    {
        const GuestOffset offset(range.begin);
        const bool may_unmap = random_.coin();
        switch (which) {
        case Change::write:
            return {"write", [=, this] { return image_->place_write(range); },
                    [=, this] {
                        const Buffer bytes = payload(offset, range.length(), ++generation_);
                        reference_.write(offset, bytes);
                        return image_->write(offset, bytes);
                    }};
        case Change::zero:
            return {"zero", [=, this] { return image_->place_zero(range, may_unmap); },
                    [=, this] {
                        reference_.zero(offset, range.length());
                        return image_->zero(range, may_unmap);
                    }};
        case Change::trim: break;
        }
        return {"trim", [=, this] { return image_->place_trim(range); },
                [=, this] {
                    const Result<void> trimmed = image_->trim(range);
                    // What it has become is its business.
                    Buffer found(range.length());
                    must(image_->read(offset, found));
                    reference_.preset(offset, found);
                    return trimmed;
                }};
    }

    // Nothing is left to be taken, and the store does not grow.
    std::vector<HostRun> take_all()
    {
        plan_.arm({.kinds = Fault::grows, .forever = true, .errc = Errc::no_space});
        std::vector<HostRun> runs;
        for (auto taken = image_->allocator().take(1 << 20); taken;
             taken = image_->allocator().take(1 << 20))
            runs.push_back(taken->run);
        return runs;
    }

    void show_content()
    {
        Buffer found(reference_.size());
        must(image_->read(GuestOffset(0), found));
        const std::string fault = reference_.difference(GuestOffset(0), found);
        BOOST_REQUIRE_MESSAGE(fault.empty(), fault);
    }

    Random &random_;
    ReferenceDisk reference_;
    FaultPlan plan_;
    MemoryStore memory_;
    FaultStore store_;
    DataFileOpener data_file_;
    std::unique_ptr<Image> image_;
    std::uint32_t generation_ = 0;
};

}  // namespace

BOOST_AUTO_TEST_CASE(B7_what_was_placed_needs_no_more_room, *one_thread())
{
    for (const std::uint64_t seed : seeds(30)) {
        SEEDED(seed);
        Random random(seed);
        const ImageSpec spec =
            random_spec(random, random.pick<std::uint32_t>({9, 12, 16}), 1 << 20);
        BOOST_TEST_INFO_SCOPE(spec.text());
        const BuiltImage built = build_image(spec);
        Bench bench(built.image, built.reference, random, nullptr);
        for (int step = 0; step < 25; ++step)
            bench.step();
        bench.close();
    }
}

BOOST_AUTO_TEST_CASE(B7_nor_where_the_file_ends_inside_its_last_cluster)
{
    using Change = Bench::Change;
    for (const Change which : {Change::write, Change::zero, Change::trim}) {
        ImageSpec spec;
        spec.version = 2;
        spec.cluster_bits = 16;
        spec.size = 5 << 16;
        spec.clusters[3] = Preset::data;
        spec.unpadded_end = true;
        const BuiltImage built = build_image(spec);
        BOOST_REQUIRE_NE(built.image.size % (1 << 16), 0);
        Random random(1);
        Bench bench(built.image, built.reference, random, nullptr);
        bench.make(which, {(3 << 16) + 512, (4 << 16) - 512});
        bench.close();
    }
}

BOOST_AUTO_TEST_CASE(B7_nor_in_what_the_builder_of_images_cannot_make, *one_thread())
{
    if (!have_qemu_img())
        return;
    for (const QemuMade kind :
         {QemuMade::subclusters, QemuMade::compressed, QemuMade::backing, QemuMade::data_file})
        for (const std::uint64_t seed : seeds(4)) {
            SEEDED(seed);
            Random random(seed);
            const QemuImage made = make_by_qemu(random, kind);
            BOOST_TEST_INFO_SCOPE(made.text);
            Bench bench(made.image, made.reference, random, made.files.get(), made.data_file);
            for (int step = 0; step < 25; ++step)
                bench.step();
            bench.close();
        }
}

BOOST_AUTO_TEST_SUITE_END()
