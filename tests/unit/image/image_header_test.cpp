// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/image_header.h"

#include <boost/test/unit_test.hpp>

#include "tests/support/fault_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(image_header)

namespace {

// The header of an image, and trouble below it.
struct Troubled {
    Troubled() : built(build_image({})), memory(built.image), below(memory, plan), store(below)
    {
        Buffer cluster(built.area.header.geometry().cluster_size());
        must(memory.read(0, cluster));
        header.emplace(store, built.area, std::move(cluster));
        must(store.flush());
    }

    Result<void> mark_corrupt()
    {
        return header->commit(
            [](HeaderArea &area) { area.header.incompatible_features |= incompatible::corrupt; });
    }

    const BuiltImage built;
    MemoryStore memory;
    FaultPlan plan;
    FaultStore below;
    GuardedStore store;
    std::optional<ImageHeader> header;
};

}  // namespace

BOOST_AUTO_TEST_CASE(a_commit_that_fails_leaves_the_old_header)
{
    Troubled t;
    const Buffer before = t.memory.image().bytes.copy(0, 512);
    t.plan.arm({.kinds = Fault::writes, .lands = true});
    BOOST_TEST(!t.mark_corrupt());
    BOOST_TEST(t.header->certain());
    must(t.store.state());
    BOOST_TEST((t.memory.image().bytes.copy(0, 512) == before));
    must(t.mark_corrupt());
    BOOST_TEST((t.memory.image().bytes.copy(0, 512) != before));
}

// Whoever commits: also an allocator in need of refcounts, in the midst of writes.
BOOST_AUTO_TEST_CASE(W5_with_a_header_in_doubt_nothing_is_written)
{
    Troubled t;
    t.plan.arm({.kinds = Fault::writes, .forever = true, .lands = true});
    BOOST_TEST(!t.mark_corrupt());
    t.plan.disarm();
    BOOST_TEST(!t.header->certain());
    const Result<void> written = t.store.write(4096, Buffer(1, 1));
    BOOST_REQUIRE(!written);
    BOOST_TEST(written.error().what.find("the old header could not be put back") !=
               std::string::npos);
    BOOST_TEST(!t.mark_corrupt());
}

BOOST_AUTO_TEST_SUITE_END()
