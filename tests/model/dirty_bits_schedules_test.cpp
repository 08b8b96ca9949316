// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A sector of DirtyBits in every order in which changes and who holds the turn can take
// their steps: of what a change finds durable the file has every bit from then on.
//
// The source of the sector is compiled here with atomics that are steps of a schedule, as that
// of the gate in unit/base/gate_schedules_test: one thread runs at a time, and before each step
// it is decided who takes the next one. A depth-first search goes through all decisions. What
// is bounded is how often a thread is stopped that could have gone on.

#include <boost/endian/conversion.hpp>
#include <boost/test/unit_test.hpp>

#include <sched.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <semaphore>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/arith.h"
#include "core/base/bytes.h"
#include "tests/support/random.h"

namespace {

// Of threads that run one at a time each would else find its processor asleep.
void stay_on_one_processor(int processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    (void)sched_setaffinity(0, sizeof one, &one);
}

class Orders {
public:
    using Bodies = std::vector<std::function<void()>>;

    // Runs the bodies once for each order; before each run `anew`, and `over` after it.
    unsigned explore(unsigned stops_max, const std::function<void()> &anew, const Bodies &bodies,
                     const std::function<void()> &over)
    {
        stops_max_ = stops_max;
        std::vector<std::thread> all = start(bodies);
        unsigned runs = 0;
        do {
            anew();
            run();
            over();
            ++runs;
        } while (next_order());
        is_over_ = true;
        for (std::size_t i = 0; i < all.size(); ++i) {
            threads_[i]->turn.release();
            all[i].join();
        }
        return runs;
    }

    // Somebody else may run here instead of us.
    void step()
    {
        if (running_)
            go_on(decide(me_));
    }

private:
    struct Thread {
        std::binary_semaphore turn{0};
        bool ended = false;
    };
    struct Decision {
        std::size_t taken, options;
    };

    std::vector<std::thread> start(const Bodies &bodies)
    {
        for (std::size_t i = 0; i < bodies.size(); ++i)
            threads_.push_back(std::make_unique<Thread>());
        std::vector<std::thread> all;
        for (std::size_t i = 0; i < bodies.size(); ++i)
            all.emplace_back([this, &bodies, i] {
                stay_on_one_processor(processor_);
                me_ = i;
                for (;;) {
                    threads_[i]->turn.acquire();
                    if (is_over_)
                        return;
                    bodies[i]();
                    threads_[i]->ended = true;
                    go_on(decide(i));
                }
            });
        return all;
    }

    void run()
    {
        stops_ = depth_ = 0;
        for (const auto &thread : threads_)
            thread->ended = false;
        running_ = true;
        threads_[*decide(threads_.size())]->turn.release();
        all_ended_.acquire();
        running_ = false;
    }

    void go_on(std::optional<std::size_t> next)
    {
        if (next == me_)
            return;
        Thread &mine = *threads_[me_];
        const bool ended = mine.ended;
        (next ? threads_[*next]->turn : all_ended_).release();
        if (!ended)
            mine.turn.acquire();
    }

    // Who runs next, the current one first; nobody, if all have ended.
    std::optional<std::size_t> decide(std::size_t current)
    {
        std::vector<std::size_t> able;
        for (std::size_t i = 0; i < threads_.size(); ++i)
            if (!threads_[i]->ended)
                able.insert(i == current ? able.begin() : able.end(), i);
        if (able.empty())
            return std::nullopt;
        const bool stops = able.front() == current;
        if (able.size() == 1 || (stops && stops_ == stops_max_))
            return able.front();
        if (depth_ == decisions_.size())
            decisions_.push_back({0, able.size()});
        const std::size_t taken = decisions_[depth_++].taken;
        stops_ += stops && taken != 0;
        return able[taken];
    }

    bool next_order()
    {
        while (!decisions_.empty() && ++decisions_.back().taken == decisions_.back().options)
            decisions_.pop_back();
        return !decisions_.empty();
    }

    static thread_local std::size_t me_;
    const int processor_ = sched_getcpu();
    std::binary_semaphore all_ended_{0};
    bool running_ = false, is_over_ = false;
    // Whoever has the turn touches them.
    std::vector<std::unique_ptr<Thread>> threads_;
    std::vector<Decision> decisions_;
    std::size_t depth_ = 0;
    unsigned stops_ = 0, stops_max_ = 0;
};

thread_local std::size_t Orders::me_ = 0;

Orders *orders = nullptr;

}  // namespace

// What the sector's source calls std and qcow2.

namespace stepped_std {

using std::array, std::make_unique, std::memory_order_relaxed, std::popcount, std::uint32_t,
    std::uint64_t;

template <class T>
class atomic {
public:
    atomic(T value = T()) : value_(value) {}
    T load(std::memory_order = std::memory_order_seq_cst) const { return step(), value_; }
    void store(T value, std::memory_order = std::memory_order_seq_cst) { step(), value_ = value; }
    T exchange(T value) { return step(), std::exchange(value_, value); }
    T fetch_or(T bits, std::memory_order = std::memory_order_seq_cst)
    {
        return step(), std::exchange(value_, value_ | bits);
    }
    T fetch_and(T bits, std::memory_order = std::memory_order_seq_cst)
    {
        return step(), std::exchange(value_, value_ & bits);
    }
    T fetch_add(T more) { return step(), std::exchange(value_, value_ + more); }
    T fetch_sub(T less) { return step(), std::exchange(value_, value_ - less); }

private:
    static void step() { orders ? orders->step() : void(); }

    T value_;
};

}  // namespace stepped_std

namespace stepped {

using qcow2::for_each_bit, qcow2::MutableBytes;

}  // namespace stepped

#define std stepped_std
#define qcow2 stepped
#include "core/bitmap/dirty_bits_sector.cpp"
#undef qcow2
#undef std

using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(dirty_bits_schedules)

namespace {

// One word of a sector, and what the file has of it. All that is written is durable at once:
// for a bit that is missing that is worst.
class Scene {
public:
    // What the file has.
    explicit Scene(std::uint64_t bits) : file_(bits)
    {
        sector_.note_precise(0);
        sector_.load(0, bits);
    }
    // A change, as DirtyBits::mark() makes it; true if it has nothing to wait for.
    bool change(std::uint64_t bits)
    {
        if ((sector_.precise(0) & bits) != bits) {
            sector_.note_precise(0);
            sector_.set(0, bits);
        }
        if (!sector_.is_durable(0, bits))
            return false;
        relied_ |= bits;
        look();
        return true;
    }
    // The rest is what the holder of the turn does.
    void arm()
    {
        write(~std::uint64_t(0));
        sector_.arm(stepped::DirtySector::Words(1));
    }
    void arm_part(std::uint64_t bits)
    {
        sector_.make_room_for_rest();
        write(read() | bits);
        sector_.arm(0, bits);
    }
    void cool()
    {
        if (sector_.cool(1))
            write(read());
    }
    // Nothing extra is left, and what is known is right.
    bool is_right()
    {
        look();
        return !wrong_ && (sector_.durable(0) & ~file_) == 0;
    }
    std::uint64_t file() const { return file_; }

private:
    std::uint64_t read() const
    {
        std::array<std::uint8_t, 512> bytes{};
        sector_.fill(bytes);
        return boost::endian::load_little_u64(bytes.data());
    }
    void write(std::uint64_t bits)
    {
        file_ = bits;
        look();
    }
    void look() { wrong_ |= (relied_ & ~file_) != 0; }

    stepped::DirtySector sector_;
    std::uint64_t file_;
    std::uint64_t relied_ = 0;
    bool wrong_ = false;
};

std::unique_ptr<Scene> loaded() { return std::make_unique<Scene>(1); }
void change(Scene &scene) { scene.change(4); }
void other(Scene &scene) { scene.change(12); }
void cool(Scene &scene) { scene.cool(); }

void explore(unsigned stops_max, const std::function<std::unique_ptr<Scene>()> &anew,
             const std::vector<std::function<void(Scene &)>> &bodies)
{
    std::unique_ptr<Scene> scene;
    Orders::Bodies all;
    for (const auto &body : bodies)
        all.push_back([&] { body(*scene); });
    unsigned wrong = 0;
    Orders all_orders;
    orders = &all_orders;
    const unsigned runs = all_orders.explore(
        stops_max, [&] { scene = anew(); }, all, [&] { wrong += !scene->is_right(); });
    orders = nullptr;
    BOOST_TEST_MESSAGE(runs << " orders");
    BOOST_TEST(runs > 100u);
    BOOST_TEST(wrong == 0u);
}

}  // namespace

// Two set the same bit, or find that it is set, while the word is cooled.
BOOST_AUTO_TEST_CASE(B3_what_changes_rely_on_stays_while_a_word_is_cooled, *one_thread())
{
    const auto armed = [] {
        auto scene = loaded();
        scene->arm();
        return scene;
    };
    explore(3, armed, {change, change, cool});
    explore(3, armed, {change, other, cool});
}

// It is armed and cooled, and that again.
BOOST_AUTO_TEST_CASE(B3_what_changes_rely_on_stays_when_a_word_comes_and_goes, *one_thread())
{
    const auto turns = [](Scene &scene) {
        for (int i = 0; i < 2; ++i) {
            scene.arm();
            scene.cool();
        }
    };
    explore(2, loaded, {change, change, turns});
    explore(4, loaded, {change, turns});
}

// Less than the word is armed, and cooled.
BOOST_AUTO_TEST_CASE(B3_what_changes_rely_on_stays_while_a_part_is_cooled, *one_thread())
{
    const auto turns = [](Scene &scene) {
        scene.arm_part(0xf);
        scene.cool();
    };
    explore(2, loaded, {change, turns});
    explore(1, loaded, {change, change, turns});
}

// There is room to say which bits of the word are durable, and one of two changes takes note.
BOOST_AUTO_TEST_CASE(B3_what_changes_rely_on_stays_where_there_is_room_for_the_rest, *one_thread())
{
    const auto with_room = [](bool armed) {
        auto scene = loaded();
        scene->arm_part(2);
        if (armed)
            scene->arm();
        return scene;
    };
    explore(2, [&] { return with_room(true); }, {change, cool});
    explore(1, [&] { return with_room(true); }, {change, other, cool});
    explore(2, [&] { return with_room(false); }, {change, other});
    explore(1, [&] { return with_room(false); }, {change, other, cool});
    const auto turns = [](Scene &scene) {
        scene.arm();
        scene.cool();
    };
    explore(1, [&] { return with_room(false); }, {change, other, turns});
}

// Where no change meets it, a word that is cooled is exact: the next change of what is precise
// waits for nothing.
BOOST_AUTO_TEST_CASE(what_is_cooled_is_durable)
{
    Scene scene(1);
    scene.arm();
    BOOST_TEST(scene.change(2));
    scene.cool();
    BOOST_TEST(scene.file() == 3u);
    BOOST_TEST(scene.change(3));
    BOOST_TEST(!scene.change(4));
    BOOST_TEST(scene.is_right());
}

// And of a part that was armed before all of the word was, nothing stays but what is precise.
BOOST_AUTO_TEST_CASE(what_was_armed_in_part_before_is_cooled_with_the_word)
{
    Scene scene(1);
    scene.arm_part(0xf);
    scene.arm();
    scene.cool();
    BOOST_TEST(scene.file() == 1u);
    BOOST_TEST(scene.is_right());
    BOOST_TEST(!scene.change(4));
}

BOOST_AUTO_TEST_SUITE_END()
