// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A repair of an image that has names that lead behind the end of the file: they stay an error,
// and nothing comes to lie under one.

#include <boost/test/unit_test.hpp>

#include <functional>
#include <utility>
#include <vector>

#include "core/check/repair.h"
#include "tests/corrupt/cut_disk.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(lost_names)

// Found in the wild as a cut image with one wrong bit 63: the new refcount table
// came where the entries led, and the guest read it.
BOOST_AUTO_TEST_CASE(W7_a_repair_puts_nothing_where_a_name_leads)
{
    const std::vector<std::pair<const char *, std::function<void(Patient &)>>> ills = {
        {"a wrong bit 63", [](Patient &p) { p.put(p.l2(3), p.word(p.l2(3)) & ~entry_copied); }},
        {"a wrong bit 63 and the dirty bit",
         [](Patient &p) {
             p.put(p.l2(3), p.word(p.l2(3)) & ~entry_copied);
             p.put_byte(79, 1);
         }},
        {"no refcount table", [](Patient &p) { p.put(48, std::uint64_t(1) << 40); }},
        {"a count that is too low", [](Patient &p) { p.set_refcount(p.host(3), 0); }},
        {"nothing else", [](Patient &) {}},
    };
    for (const auto &[name, make_ill] : ills)
        for (const bool counted : {true, false})
            BOOST_TEST_CONTEXT(name << (counted ? "" : ", refcounts 0"))
            {
                MemoryStore store(cut_image(counted, make_ill));
                const RepairReport report = must(repair(store, RepairKind::all));
                BOOST_TEST(report.after.corruptions == clusters - lost_from, report.after.text());
                BOOST_TEST(!must(repair(store, RepairKind::all)).changed);
                const auto disk = must(Disk::open(store, {}));
                BOOST_REQUIRE(!disk->why_read_only());
                must(disk->begin_writing());
                grow(*disk);
                expect_lost(*disk);
                expect_what_grew(*disk);
            }
}

// An L1 table that is not there cannot be put anywhere: the file keeps its length.
BOOST_AUTO_TEST_CASE(W7_a_repair_lets_the_file_not_grow_where_the_header_leads)
{
    MemoryStore store(cut_image(true, [](Patient &p) {
        p.put(40, p.host(clusters - 1) + cs);
        p.put(p.header().refcount_table_offset.value, std::uint64_t(1)
                                                          << 40);  // blocks must be made
    }));
    const StoreImage before = store.image();
    [[maybe_unused]] const auto report =
        repair(store, RepairKind::all);  // there may be room inside
    BOOST_TEST(store.size() == before.size);
    BOOST_TEST(past_end(store.image(), Finding::l1_table_past_end) == 1u);
    BOOST_CHECK(!Disk::open(store, {}));
}

BOOST_AUTO_TEST_SUITE_END()
