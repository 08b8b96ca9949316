// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Backups of a real disk while several write. That a frozen disk is of one instant
// (F1) is seen from what is in it: each writer counts, and writes its numbers in turn to
// the slots of its part of the disk, so that one moment is known from another. And that
// nothing is missed (F4): what all incremental backups have brought together is the disk.

#include <atomic>
#include <mutex>
#include <optional>
#include <thread>

#include "core/disk.h"
#include "tests/support/frozen_disk_driver.h"
#include "tests/support/image_builder.h"
#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(backup_threads)

namespace {

constexpr unsigned writers = 3;
constexpr std::uint64_t slots = 12;
constexpr std::uint64_t slot_bytes = 7000;  // so that blocks are shared
constexpr std::uint64_t part_bytes = slots * slot_bytes;
constexpr std::uint64_t disk_bytes = 1 << 19;

using Numbers = std::array<std::uint64_t, writers>;

// Some of them fail, and let others in before that.
class ScratchMakerThatFails final : public ScratchMaker {
public:
    explicit ScratchMakerThatFails(std::uint64_t seed) : random_(seed), stirrer_(seed) {}

    Result<std::unique_ptr<Scratch>> make(std::uint64_t size, std::optional<std::uint64_t>) override
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        auto scratch = std::make_unique<MemoryScratch>(size);
        const int good = random_.one_in(4) ? static_cast<int>(random_.below(10)) : 1 << 30;
        scratch->on_write = [this,
                             left = std::make_shared<std::atomic<int>>(good)]() -> Result<void> {
            stirrer_.turn();
            if (--*left >= 0)
                return {};
            return Error(Errc::no_space, "full");
        };
        scratch->on_read = [this]() -> Result<void> {
            stirrer_.turn();
            return {};
        };
        return std::unique_ptr<Scratch>(std::move(scratch));
    }

private:
    std::mutex mutex_;
    Random random_;
    Stirrer stirrer_;
};

class Scene {
public:
    explicit Scene(std::uint64_t seed) : seed_(seed), store_(image()), maker_(seed)
    {
        DiskOptions options;
        options.bitmaps = {"b0"};
        options.bitmap_granularity_bits = 12;
        options.scratch = &maker_;
        disk_ = must(Disk::open(store_, options));
        must(disk_->begin_writing());
    }

    void play()
    {
        std::vector<std::thread> counting, others;
        for (unsigned w = 0; w < writers; ++w)
            counting.emplace_back([this, w] { count(w); });
        others.emplace_back([this] { back_up_often(); });
        others.emplace_back([this] { back_up_increments(); });
        others.emplace_back([this] { keep_house(); });
        for (std::thread &thread : counting)
            thread.join();
        stop_ = true;
        for (std::thread &thread : others)
            thread.join();
        BOOST_TEST(first_wrong_ == "");
        BOOST_TEST_MESSAGE(seen_ << " frozen disks, " << increments_ << " increments, " << broken_
                                 << " broken");
        BOOST_TEST(seen_ != 0u);
        must(disk_->close());
        disk_.reset();
        BOOST_TEST(MemoryScratch::alive == 0);
    }

private:
    static MemoryStore image()
    {
        ImageSpec spec;
        spec.cluster_bits = 12;
        spec.size = disk_bytes;
        return MemoryStore(build_image(spec).image);
    }

    bool goes_on() const { return !stop_ && !wrong_; }
    void note(const std::string &wrong)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (first_wrong_.empty())
            first_wrong_ = wrong;
        wrong_ = true;
    }
    template <class T>
    bool good(const Result<T> &done)
    {
        if (!done)
            note(done.error().what);
        return done.has_value();
    }

    // Number n goes to slot n modulo their number.
    void count(unsigned w)
    {
        Random random(seed_ * 10 + w);
        for (std::uint64_t n = 1; n <= 1500 && !wrong_; ++n) {
            Buffer bytes(slot_bytes);
            for (std::size_t i = 0; i + 8 <= bytes.size(); i += 8)
                store_be64(&bytes[i], n);
            begun_[w] = n;
            if (!good(disk_->write(GuestOffset(w * part_bytes + n % slots * slot_bytes), bytes,
                                   random.one_in(50))))
                return;
            done_[w] = n;
        }
    }

    // Empty, or why it is not the disk of one moment between these numbers. (No write is under
    // way at that moment: of each all is there, or nothing.)
    static std::string wrong_moment(const Buffer &content, const Numbers &least,
                                    const Numbers &most)
    {
        for (unsigned w = 0; w < writers; ++w) {
            std::uint64_t last = 0;
            std::array<std::uint64_t, slots> numbers;
            for (std::uint64_t s = 0; s < slots; ++s) {
                const std::uint8_t *slot = &content[w * part_bytes + s * slot_bytes];
                numbers[s] = load_be64(slot);
                last = std::max(last, numbers[s]);
                for (std::size_t i = 0; i + 8 <= slot_bytes; i += 8)
                    if (load_be64(slot + i) != numbers[s])
                        return "two numbers in one slot";
            }
            if (last < least[w] || last > most[w])
                return "number " + std::to_string(last) + " is not between " +
                       std::to_string(least[w]) + " and " + std::to_string(most[w]);
            for (std::uint64_t n = last > slots ? last - slots + 1 : 1; n < last; ++n)
                if (numbers[n % slots] != n)
                    return "with " + std::to_string(last) + " there is " +
                           std::to_string(numbers[n % slots]) + " in the place of " +
                           std::to_string(n);
        }
        return {};
    }

    struct Begun {
        std::shared_ptr<const Backup> backup;
        Numbers least, most;
    };
    Result<Begun> begin(const BackupRequest &request)
    {
        Begun begun;
        for (unsigned w = 0; w < writers; ++w)
            begun.least[w] = done_[w];
        begun.backup = TRY(disk_->begin_backup(request));
        for (unsigned w = 0; w < writers; ++w)
            begun.most[w] = begun_[w];
        return begun;
    }

    // What it shows, or nothing, if it is broken or something is wrong.
    std::optional<Buffer> read(const Begun &begun)
    {
        Buffer content(disk_bytes);
        const Result<void> read = begun.backup->disk->read(GuestOffset(0), content);
        if (!read && begun.backup->disk->broken()) {
            ++broken_;
            return std::nullopt;
        }
        if (!good(read))
            return std::nullopt;
        if (const std::string wrong = wrong_moment(content, begun.least, begun.most);
            !wrong.empty()) {
            note(begun.backup->id + ": " + wrong);
            return std::nullopt;
        }
        ++seen_;
        return content;
    }

    // Two at a time, which begin and end in any order; what was read once stays so.
    void back_up_often()
    {
        Random random(seed_ * 10 + 5);
        struct Running {
            Begun begun;
            std::optional<Buffer> was;
        };
        std::vector<Running> running;
        for (unsigned n = 0; goes_on() || !running.empty(); ++n) {
            if (goes_on() && running.size() < 2) {
                BackupRequest request;
                request.id = "often-" + std::to_string(n);
                auto begun = begin(request);
                if (!good(begun))
                    break;
                running.push_back({*std::move(begun), std::nullopt});
                continue;
            }
            Running &one = running[random.below(running.size())];
            const std::optional<Buffer> now = read(one.begun);
            if (now && one.was && *now != *one.was)
                note(one.begun.backup->id + " has changed");
            if (now)
                one.was = now;
            if (goes_on() && random.coin())
                continue;
            good(disk_->end_backup(one.begun.backup->id, false));
            std::swap(one, running.back());
            running.pop_back();
        }
    }

    // A chain: what is dirty comes from the frozen disk, the rest from before.
    void back_up_increments()
    {
        Random random(seed_ * 10 + 6);
        Buffer restored;
        for (unsigned n = 0; goes_on(); ++n) {
            BackupRequest request;
            request.id = "increment-" + std::to_string(n);
            request.bitmaps = {"b0"};
            request.incremental = !restored.empty();
            const auto begun = begin(request);
            if (!good(begun))
                return;
            const std::optional<Buffer> content = read(*begun);
            if (content && restored.empty())
                restored = Buffer(disk_bytes, 0xee);
            const bool succeeds = content && (!request.incremental || !random.one_in(3));
            if (succeeds) {
                bring_dirty(*begun->backup, *content, restored);
                if (restored != *content)
                    note(request.id + ": what has been restored is not the disk");
            } else if (content && !request.incremental) {
                restored.clear();
            }
            const Result<void> ended = disk_->end_backup(request.id, succeeds);
            if (!ended && begun->backup->disk->broken()) {  // at the last moment
                good(disk_->end_backup(request.id, false));
                continue;
            }
            good(ended);
            increments_ += succeeds;
        }
    }

    static void bring_dirty(const Backup &backup, const Buffer &content, Buffer &restored)
    {
        if (!backup.incremental) {
            restored = content;
            return;
        }
        const FrozenBitmap &bitmap = backup.bitmaps.front();
        for (std::uint64_t bit = 0; (bit = bitmap.bits->next_set(bit)) < bitmap.bits->size();
             ++bit) {
            const Range granule = intersection(
                Range::of(bit * bitmap.granularity, bitmap.granularity), {0, disk_bytes});
            std::copy(content.begin() + granule.begin, content.begin() + granule.end,
                      restored.begin() + granule.begin);
        }
    }

    void keep_house()
    {
        Random random(seed_ * 10 + 7);
        while (goes_on()) {
            switch (random.below(4)) {
            case 0: good(disk_->cool()); break;
            case 1: good(disk_->flush()); break;
            case 2: good(disk_->settle()); break;
            // Behind all slots.
            case 3:
                good(disk_->trim(GuestOffset(writers * part_bytes),
                                 disk_bytes - writers * part_bytes, false));
                break;
            }
            std::this_thread::yield();
        }
    }

    const std::uint64_t seed_;
    MemoryStore store_;
    ScratchMakerThatFails maker_;
    std::unique_ptr<Disk> disk_;
    std::array<std::atomic<std::uint64_t>, writers> begun_{}, done_{};
    std::atomic<bool> stop_{false}, wrong_{false};
    std::atomic<unsigned> seen_{0}, increments_{0}, broken_{0};
    std::mutex mutex_;
    std::string first_wrong_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(F1_F4_of_one_instant_and_nothing_missed)
{
    for (const std::uint64_t seed : seeds(2)) {
        SEEDED(seed);
        Scene(seed).play();
    }
}

BOOST_AUTO_TEST_SUITE_END()
