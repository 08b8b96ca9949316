// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Operations on bitmaps against vectors of bools, while the disk is written to.

#include "core/structure/operations.h"

#include <atomic>
#include <map>
#include <thread>

#include "core/check/check.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/qemu_img.h"
#include "tests/support/random.h"
#include "tests/support/structural.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(bitmap_operations_model)

namespace {

struct ModelBitmap {
    std::uint32_t granularity_bits = 16;
    bool enabled = true;
    bool in_use = false;
    std::vector<bool> dirty;  // by sector, in whole granules

    void set(Range bytes, std::uint64_t size)
    {
        const std::uint64_t g = std::uint64_t(1) << granularity_bits;
        for (std::uint64_t at = align_down(bytes.begin, g);
             at < std::min(align_up(bytes.end, g), size); at += 512)
            dirty[at / 512] = true;
    }
};

using Model = std::map<std::string, ModelBitmap>;

Model model_of(const StoreImage &image)
{
    const DiskState state = must(state_of(image));
    Model model;
    for (const DiskState::Bitmap &b : state.bitmaps) {
        ModelBitmap m{b.granularity_bits, (b.flags & bitmap_flags::auto_) != 0,
                      (b.flags & bitmap_flags::in_use) != 0, std::vector<bool>(state.size / 512)};
        for (std::size_t i = 0; i < m.dirty.size(); ++i)
            m.dirty[i] = b.bits.test(i * 512 >> b.granularity_bits);
        model.emplace(b.name, std::move(m));
    }
    return model;
}

std::string difference(const Model &is, const Model &should)
{
    for (const auto &[name, bitmap] : should) {
        const auto found = is.find(name);
        if (found == is.end())
            return "'" + name + "' is missing";
        if (found->second.enabled != bitmap.enabled || found->second.in_use != bitmap.in_use ||
            found->second.granularity_bits != bitmap.granularity_bits)
            return "'" + name + "': flags or granularity";
        if (found->second.dirty != bitmap.dirty)
            return "'" + name + "': bits";
    }
    return is.size() == should.size() ? "" : "too many bitmaps";
}

class Player {
public:
    Player(std::uint64_t seed, const ImageSpec &spec)
        : random_(seed),
          built_(build_image(spec)),
          model_(model_of(built_.image)),
          size_(align_down(spec.size, 512)),
          memory_(built_.image, {.growth_step = 65536})
    {
        disk_ = must(Disk::open(memory_, {}));
        BOOST_REQUIRE_MESSAGE(!disk_->why_read_only(), words(disk_->why_read_only()));
        must(disk_->begin_writing());
    }

    void step()
    {
        if (random_.one_in(3)) {
            write();
            return;
        }
        const std::string name = random_.pick<std::string>({"b0", "b1", "b2", "b3"});
        const std::string other = random_.pick<std::string>({"b0", "b1", "b2", "b3"});
        switch (random_.below(6)) {
        case 0: add(name); break;
        case 1: remove(name); break;
        case 2: set_enabled(name, true); break;
        case 3: set_enabled(name, false); break;
        case 4: clear(name); break;
        default: merge(name, other);
        }
    }

    void judge(bool by_qemu)
    {
        must(disk_->close());
        const StoreImage image = memory_.image();
        ImageView view(image);
        const CheckReport report = must(check(view));
        BOOST_REQUIRE_MESSAGE(report.sound(), report.text() << keep(image, "operated"));
        const std::string words = difference(model_of(image), model_);
        BOOST_REQUIRE_MESSAGE(words.empty(), words << keep(image, "operated"));
        if (by_qemu)
            BOOST_REQUIRE_EQUAL(qemu_verdict(image, false), "");
    }

private:
    void write()
    {
        const Range range = random_.range(size_, 20000, 512);
        if (range.empty())
            return;
        must(disk_->write(GuestOffset(range.begin), Buffer(range.length(), 7), false));
        for (auto &[name, bitmap] : model_)
            if (bitmap.enabled && !bitmap.in_use)
                bitmap.set(range, size_);
    }

    Errc run(const Disk::Restructuring &operation, bool works)
    {
        const Result<void> done = disk_->restructure(operation);
        BOOST_REQUIRE_MESSAGE(done.has_value() == works, words(done));
        return done ? Errc::io : done.error().code;
    }
    bool consistent(const std::string &name) const
    {
        const auto found = model_.find(name);
        return found != model_.end() && !found->second.in_use;
    }
    void add(const std::string &name)
    {
        const auto bits = random_.pick<std::uint32_t>({9, 10, 12, 16, 31});
        const bool enabled = random_.coin();
        const bool works = !model_.contains(name);
        const Errc errc = run(
            [&](Image &i) {
                return add_bitmaps(i, {{name, bits, enabled}});
            },
            works);
        if (!works)
            BOOST_TEST((errc == Errc::exists));
        else
            model_[name] = {bits, enabled, false, std::vector<bool>(size_ / 512)};
    }
    void remove(const std::string &name)
    {
        run([&](Image &i) { return remove_bitmap(i, name); }, model_.contains(name));
        model_.erase(name);
    }
    void set_enabled(const std::string &name, bool enabled)
    {
        run([&](Image &i) { return enabled ? enable_bitmap(i, name) : disable_bitmap(i, name); },
            consistent(name));
        if (consistent(name))
            model_[name].enabled = enabled;
    }
    void clear(const std::string &name)
    {
        run([&](Image &i) { return clear_bitmap(i, name); }, consistent(name));
        if (consistent(name))
            model_[name].dirty.assign(size_ / 512, false);
    }
    void merge(const std::string &target, const std::string &source)
    {
        const bool works = consistent(target) && consistent(source);
        run([&](Image &i) { return merge_bitmap(i, target, source); }, works);
        if (works)
            for (std::uint64_t at = 0; at < size_; at += 512)
                if (model_[source].dirty[at / 512])
                    model_[target].set({at, at + 512}, size_);
    }

    Random random_;
    const BuiltImage built_;
    Model model_;
    const std::uint64_t size_;
    MemoryStore memory_;
    std::unique_ptr<Disk> disk_;
};

ImageSpec player_spec(Random &random)
{
    ImageSpec spec = random_spec(random, random.pick<std::uint32_t>({9, 12, 16}), 400000);
    spec.version = 3;
    spec.size = std::max<std::uint64_t>(spec.size, 512);
    spec.bitmaps = {
        {.name = "b3", .granularity_bits = 12, .in_use = true, .set = {}, .extra_data = {}}};
    return spec;
}

}  // namespace

BOOST_AUTO_TEST_CASE(random_steps, *one_thread())
{
    for (const std::uint64_t seed : seeds(40)) {
        SEEDED(seed);
        Random random(seed);
        const ImageSpec spec = player_spec(random);
        BOOST_TEST_INFO_SCOPE(spec.text());
        Player player(seed, spec);
        for (int step = 0; step < 60; ++step)
            player.step();
        player.judge(seed % 8 == 0);
    }
}

// The operations come while other threads write: what "b0", enabled all the
// time, must have seen is all that they wrote.
BOOST_AUTO_TEST_CASE(with_requests_in_flight)
{
    for (const std::uint64_t seed : seeds(6)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec = player_spec(random);
        spec.size = std::max<std::uint64_t>(spec.size, 8192);
        spec.bitmaps = {{.name = "b0", .granularity_bits = 9, .set = {}, .extra_data = {}}};
        MemoryStore memory(build_image(spec).image, {.growth_step = 65536});
        auto disk = must(Disk::open(memory, {}));
        must(disk->begin_writing());
        std::atomic<bool> stop{false};
        std::vector<std::vector<bool>> written(3, std::vector<bool>(disk->size() / 512));
        std::vector<std::string> faults(3);
        std::vector<std::thread> writers;
        for (unsigned t = 0; t < 3; ++t)
            writers.emplace_back([&, t] {
                Random mine(seed * 10 + t);
                for (int n = 0; (!stop || n < 50) && faults[t].empty(); ++n) {
                    const std::uint64_t sector = mine.below(written[t].size() / 3) * 3 + t;
                    const Result<void> done =
                        disk->write(GuestOffset(sector * 512), Buffer(512, 3), mine.one_in(20));
                    if (!done)
                        faults[t] = words(done);
                    written[t][sector] = true;
                }
            });
        for (int n = 0; n < 10; ++n) {
            const std::string name = "n" + std::to_string(n);
            must(disk->restructure([&](Image &i) { return add_bitmaps(i, {{name, 12}}); }));
            must(disk->restructure([&](Image &i) { return merge_bitmap(i, name, "b0"); }));
            must(disk->restructure([&](Image &i) { return disable_bitmap(i, name); }));
            must(disk->restructure([&](Image &i) { return clear_bitmap(i, name); }));
            if (n % 2 == 0)
                must(disk->restructure([&](Image &i) { return remove_bitmap(i, name); }));
        }
        stop = true;
        for (auto &writer : writers)
            writer.join();
        for (const std::string &fault : faults)
            BOOST_REQUIRE_MESSAGE(fault.empty(), fault);
        must(disk->close());
        const Model model = model_of(memory.image());
        BOOST_REQUIRE(model.size() == 6u);
        for (std::size_t i = 0; i < written[0].size(); ++i)
            BOOST_REQUIRE(model.at("b0").dirty[i] ==
                          (written[0][i] || written[1][i] || written[2][i]));
    }
}

BOOST_AUTO_TEST_SUITE_END()
