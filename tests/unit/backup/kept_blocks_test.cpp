// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/backup/kept_blocks.h"

#include <boost/test/unit_test.hpp>

#include <vector>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(kept_blocks)

namespace {

constexpr std::uint64_t T = std::uint64_t(1) << 40;

// Whatever it begins and ends with, a run is what the model says.
void expect_runs(const KeptBlocks &blocks, const std::vector<Kept> &model, Range range)
{
    while (!range.empty()) {
        std::uint64_t end = range.begin + 1;
        while (end < range.end && model[end] == model[range.begin])
            ++end;
        const KeptBlocks::Run run = blocks.run(range);
        BOOST_REQUIRE((run.kept == model[range.begin]));
        BOOST_REQUIRE_EQUAL(run.blocks, end - range.begin);
        range.begin = end;
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(as_an_array_of_words)
{
    for (const std::uint64_t seed : seeds(20)) {
        SEEDED(seed);
        Random random(seed);
        const std::uint64_t size =
            random.pick<std::uint64_t>({1, 31, 32, 33, 2048, 2049, 3 * 2048 + 77, 20000});
        KeptBlocks blocks(size);
        std::vector<Kept> model(size);
        for (int step = 0; step < 60; ++step) {
            const Range range = random.range(size, size, 32);
            if (range.empty())
                continue;
            expect_runs(blocks, model, range);
            const KeptBlocks::Run run = blocks.run(range);
            if (run.kept != Kept::no)
                continue;
            const Range marked = Range::of(
                range.begin, random.between(1, std::min<std::uint64_t>(run.blocks, 5000)));
            const Kept kept = random.pick({Kept::data, Kept::zeros, Kept::unreadable});
            blocks.reserve(marked);
            blocks.mark(marked, kept);
            std::fill(model.begin() + marked.begin, model.begin() + marked.end, kept);
        }
        expect_runs(blocks, model, {0, size});
    }
}

// A disk of 64T costs next to nothing to be frozen, and no time where it was not touched.
BOOST_AUTO_TEST_CASE(what_was_not_touched_is_one_run)
{
    const std::uint64_t size = 64 * T / 4096;
    KeptBlocks blocks(size);
    BOOST_TEST(blocks.run({5, size}).blocks == size - 5);
    const std::uint64_t far = 40 * T / 4096 + 12345;
    blocks.reserve({far, far + 1});
    blocks.mark({far, far + 1}, Kept::zeros);
    BOOST_TEST(blocks.run({0, size}).blocks == far);
    BOOST_TEST((blocks.run({far, size}).kept == Kept::zeros));
    BOOST_TEST(blocks.run({far, size}).blocks == 1u);
    BOOST_TEST(blocks.run({far + 1, size}).blocks == size - far - 1);
}

BOOST_AUTO_TEST_SUITE_END()
