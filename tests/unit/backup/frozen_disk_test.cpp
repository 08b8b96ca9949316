// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Frozen disks, one case after the other (rules F1, F2, F3).

#include "core/backup/frozen_disk.h"

#include <boost/test/unit_test.hpp>

#include "tests/support/frozen_disk_driver.h"

using namespace qcow2;
using namespace qcow2::test;

namespace {

constexpr std::uint64_t block = block_bytes;

}  // namespace

BOOST_AUTO_TEST_SUITE(frozen_disk)

BOOST_AUTO_TEST_CASE(F1_what_is_overwritten_is_read_as_it_was)
{
    FreezableDisk disk(20 * block + 512);
    disk.write({0, 10 * block}, 1);
    const Buffer was = disk.inner.content();
    MemoryScratch *scratch = nullptr;
    const auto frozen = disk.freeze("mon", scratch);
    disk.write({block + 100, 3 * block + 7}, 2);
    disk.write({9 * block, 20 * block + 512}, 3);
    disk.zero({0, 5 * block});
    BOOST_TEST((read_all(*frozen) == was));
    BOOST_TEST(scratch->writes == 4u);  // in runs: 1 to 3, 9, and 0 and 4 with the zeros
    BOOST_TEST(scratch->bytes_used() == 6 * block);
    BOOST_TEST(frozen->scratch_bytes() == 6 * block);
    BOOST_TEST(frozen->bytes_read() == was.size());
    // Zeros cost no room, and are known as that.
    const auto extents = must(frozen->status(0, frozen->size()));
    BOOST_REQUIRE(extents.size() == 2u);
    BOOST_TEST(extents[0].length == 10 * block);
    BOOST_TEST((!extents[0].zero && !extents[0].hole));
    BOOST_TEST(extents[1].length == 10 * block + 512);
    BOOST_TEST((extents[1].zero && extents[1].hole));
    disk.frozen.thaw(*frozen);
    BOOST_TEST(!disk.frozen.any());
}

BOOST_AUTO_TEST_SUITE_END()
