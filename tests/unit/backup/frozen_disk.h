// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What is asked of a frozen disk.

#pragma once

#include "core/backup/frozen_disk.h"

#include <boost/test/unit_test.hpp>

#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/frozen_disk_driver.h"
#include "tests/support/random.h"
#include "tests/support/waiting_thread.h"

namespace frozen_disk {

using namespace qcow2;
using namespace qcow2::test;

inline constexpr std::uint64_t block = block_bytes;

inline Buffer of(std::uint64_t length, std::uint8_t value) { return Buffer(length, value); }

inline Result<void> read_block(FrozenDisk &disk, std::uint64_t number)
{
    Buffer bytes(block);
    return disk.read(GuestOffset(number * block), bytes);
}

inline std::string why(const Result<void> &result)
{
    BOOST_REQUIRE(!result);
    BOOST_CHECK(result.error().code == Errc::io);
    return result.error().what;
}

inline void expect_extents(FrozenDisk &disk, const std::vector<Extent> &expected)
{
    const auto extents = must(disk.status(0, disk.size()));
    BOOST_REQUIRE_EQUAL(extents.size(), expected.size());
    for (std::size_t i = 0; i < extents.size(); ++i) {
        BOOST_TEST(extents[i].length == expected[i].length);
        BOOST_TEST(extents[i].same_kind(expected[i]));
    }
}

}  // namespace frozen_disk
