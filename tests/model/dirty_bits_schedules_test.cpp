// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A sector of DirtyBits in every order in which changes and who holds the turn can take
// their steps: of what a change finds durable the file has every bit from then on.
//
// The source of the sector is compiled here with atomics that are steps of a schedule
// (tests/support/schedule.h).

#include <boost/endian/conversion.hpp>
#include <boost/test/unit_test.hpp>

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/base/arith.h"
#include "core/base/bytes.h"
#include "tests/support/random.h"
#include "tests/support/schedule.h"

namespace {

qcow2::test::Schedule sector_schedule;

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
    static void step() { sector_schedule.step(); }

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
    Schedule::Bodies all;
    for (const auto &body : bodies)
        all.push_back([&] { body(*scene); });
    unsigned wrong = 0;
    const auto next = [&] {
        wrong += scene && !scene->is_right();
        scene = anew();
    };
    const unsigned runs = sector_schedule.explore(stops_max, next, all);
    next();
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
    explore(2, armed, {change, change, cool});
    explore(2, armed, {change, other, cool});
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
    explore(3, loaded, {change, turns});
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
