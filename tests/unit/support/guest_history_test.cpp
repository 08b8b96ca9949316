// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The judge of the crash tests is judged: what it must let pass, and what it must not.

#include <boost/test/unit_test.hpp>

#include "core/format/limits.h"
#include "tests/support/reference_disk.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(guest_history)

namespace {

constexpr std::uint64_t sector = limits::sector;

// A disk of two sectors whose first one is changed: to 1, to 2 and so on.
class Scene {
public:
    GuestHistory::Change begin(std::uint64_t now)
    {
        disk_.write(GuestOffset(0), Buffer(sector, ++content_));
        return history.begin(now, GuestOffset(0), sector, disk_);
    }
    // Whether the sector may have this content, all of it, after a crash at that event.
    bool may_be(std::uint64_t event, std::uint8_t content) const
    {
        return may_be(event, Buffer(sector, content));
    }
    bool may_be(std::uint64_t event, const Buffer &content) const
    {
        const auto read = [&](GuestOffset, MutableBytes bytes) {
            std::copy(content.begin(), content.end(), bytes.begin());
        };
        return history.verdict(event, ReferenceDisk(2 * sector), read).empty();
    }

    GuestHistory history;

private:
    ReferenceDisk disk_{2 * sector};
    std::uint8_t content_ = 0;
};

}  // namespace

BOOST_AUTO_TEST_CASE(until_it_is_flushed_a_change_may_be_there_or_not)
{
    Scene scene;
    const auto change = scene.begin(10);
    scene.history.end(20, change);
    BOOST_TEST(scene.may_be(9, 0));
    BOOST_TEST(!scene.may_be(9, 1));
    for (const std::uint64_t event : {10, 15, 20, 99}) {
        BOOST_TEST(scene.may_be(event, 0));
        BOOST_TEST(scene.may_be(event, 1));
        BOOST_TEST(!scene.may_be(event, 2));
    }
}

BOOST_AUTO_TEST_CASE(a_sector_is_not_torn)
{
    Scene scene;
    scene.history.end(20, scene.begin(10));
    Buffer torn(sector, 1);
    torn.back() = 0;
    BOOST_TEST(!scene.may_be(30, torn));
}

BOOST_AUTO_TEST_CASE(what_was_flushed_is_there_from_the_end_of_the_flush_on)
{
    Scene scene;
    scene.history.end(20, scene.begin(10));
    scene.history.flushed(30, 40);
    BOOST_TEST(scene.may_be(39, 0));
    BOOST_TEST(!scene.may_be(40, 0));
    BOOST_TEST(scene.may_be(40, 1));
    // And what comes later may be there or not, but nothing older.
    const auto later = scene.begin(50);
    BOOST_TEST(!scene.may_be(60, 0));
    BOOST_TEST(scene.may_be(60, 1));
    BOOST_TEST(scene.may_be(60, 2));
    scene.history.end_durable(70, later);
    BOOST_TEST(scene.may_be(69, 1));
    BOOST_TEST(!scene.may_be(70, 1));
}

// A flush says something of what had returned when it began, and of nothing else.
BOOST_AUTO_TEST_CASE(a_flush_that_began_before_a_change_has_returned_says_nothing_of_it)
{
    Scene scene;
    const auto change = scene.begin(10);
    scene.history.flushed(15, 30);
    scene.history.end(20, change);
    scene.history.flushed(18, 35);
    BOOST_TEST(scene.may_be(40, 0));
    scene.history.flushed(21, 50);
    BOOST_TEST(!scene.may_be(50, 0));
}

BOOST_AUTO_TEST_SUITE_END()
