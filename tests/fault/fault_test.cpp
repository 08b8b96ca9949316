// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the n-th operation of the store fails? For each way to keep bitmaps,
// each request, each kind of fault and each n until the request meets none.
// Afterwards, with the fault gone: reading works; either writing works too, or
// the disk is in the error state and says the first cause; what is in the file
// is sound; and so is what a power cut leaves, from the fault on.

#include <functional>
#include <utility>
#include <vector>

#include "core/check/check.h"
#include "core/disk.h"
#include "tests/fault/trial.h"
#include "tests/support/fault_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(fault)

namespace {

struct FaultKind {
    const char *name;
    Fault fault;
};

const std::vector<FaultKind> fault_kinds = {
    {"read", {.kinds = Fault::reads}},
    {"write", {.kinds = Fault::writes}},
    {"write, from then on", {.kinds = Fault::writes, .forever = true}},
    {"write that lands", {.kinds = Fault::writes, .lands = true}},
    {"write without space", {.kinds = Fault::writes, .errc = Errc::no_space}},
    {"flush", {.kinds = Fault::flushes}},
    {"flush that lands", {.kinds = Fault::flushes, .lands = true}},
    {"growth", {.kinds = Fault::grows, .errc = Errc::no_space}},
    {"growth, from then on", {.kinds = Fault::grows, .forever = true, .errc = Errc::no_space}},
    {"growth that fails otherwise", {.kinds = Fault::grows}},
    {"zero or discard", {.kinds = Fault::zeros | Fault::discards}},
    {"cut", {.kinds = Fault::cuts}},
};

using Request = std::function<void(Trial &)>;

constexpr Range cluster(std::uint64_t n, std::uint64_t count = 1)
{
    return Range::of(n * cs, count * cs);
}

const std::vector<std::pair<const char *, Request>> requests = {
    {"write in place",
     [](Trial &t) {
         t.driver().write({100, 900}, false);
     }},
    {"write in place with fua",
     [](Trial &t) {
         t.driver().write({100, 900}, true);
     }},
    {"write new", [](Trial &t) { t.driver().write(cluster(20, 3), false); }},
    {"write part of new",
     [](Trial &t) {
         t.driver().write({20 * cs + 5, 22 * cs + 7}, false);
     }},
    {"write under a new table",
     [](Trial &t) {
         t.driver().write({300 * cs + 5, 301 * cs}, true);
     }},
    {"write over zeros",
     [](Trial &t) {
         t.driver().write({2 * cs + 5, 3 * cs + 77}, true);
     }},
    {"write to shared",
     [](Trial &t) {
         t.driver().write({4 * cs + 5, 4 * cs + 99}, true);
     }},
    {"write under a shared table",
     [](Trial &t) {
         t.driver().write({140 * cs + 5, 140 * cs + 99}, true);
     }},
    {"zero",
     [](Trial &t) {
         t.driver().zero({100, 3 * cs + 100}, {});
     }},
    {"zero, kept",
     [](Trial &t) {
         t.driver().zero({100, 5 * cs}, {.may_unmap = false, .fua = true});
     }},
    {"trim", [](Trial &t) { t.driver().trim(cluster(0, 7), true); }},
    {"flush",
     [](Trial &t) {
         t.driver().write(cluster(30, 40), false);
         t.driver().flush();
     }},
    {"settle",
     [](Trial &t) {
         t.driver().write(cluster(0, 40), false);
         t.driver().trim(cluster(0, 3), false);
         t.driver().settle();
     }},
    {"read",
     [](Trial &t) {
         Buffer bytes(100000);
         const Result<void> result = t.disk().read(GuestOffset(0), bytes);
         if (!result)
             BOOST_TEST((result.error().code == Errc::io));
     }},
    {"many",
     [](Trial &t) {
         for (int step = 0; step < 12; ++step) {
             t.driver().write(cluster(10 + 40 * step, 2), step % 3 == 0);
             t.driver().trim(cluster(40 * step, 12), false);
         }
         t.driver().settle();
     }},
};

}  // namespace

BOOST_AUTO_TEST_CASE(each_request_survives_each_fault)
{
    std::uint64_t struck = 0;
    Sample sample;
    for (const BitmapKeeping &keeping : keepings)
        for (const auto &[request_name, request] : requests)
            for (const FaultKind &kind : fault_kinds) {
                if (!sample.next())
                    continue;
                BOOST_TEST_INFO_SCOPE(keeping << ": " << request_name << " meets a fault of "
                                              << kind.name);
                struck += for_each_fault(kind.fault, [&, &asked = request](FaultPlan &plan) {
                    BOOST_TEST_INFO_SCOPE("number " << plan.fault().nth);
                    Trial trial(plan, keeping);
                    trial.with_fault([&] { asked(trial); });
                    trial.judge();
                });
            }
    BOOST_TEST_MESSAGE(struck << " faults");
    BOOST_TEST(struck > 1200u / every());
}

// Opening writes nothing; begin_writing() makes a bitmap.
BOOST_AUTO_TEST_CASE(opening_survives_each_fault)
{
    std::uint64_t struck = 0;
    for (const FaultKind &kind : fault_kinds) {
        BOOST_TEST_INFO_SCOPE(kind.name);
        struck += for_each_fault(kind.fault, [&](FaultPlan &plan) {
            BOOST_TEST_INFO_SCOPE("number " << plan.fault().nth);
            const BuiltImage built = build_image(fault_spec());
            MemoryStore memory(built.image);
            FaultStore store(memory, plan);
            DiskOptions options;
            options.bitmaps = {"made"};
            {
                auto disk = Disk::open(store, options);
                if (disk) {
                    const Result<void> begun = (*disk)->begin_writing();
                    plan.disarm();
                    const Result<void> closed = (*disk)->close();
                    BOOST_REQUIRE(!begun || closed);
                } else {
                    BOOST_REQUIRE(memory.image().bytes == built.image.bytes);
                }
                plan.disarm();
            }
            const StoreImage image = memory.image();
            ImageView view(image);
            const CheckReport report = must(check(view));
            BOOST_REQUIRE_MESSAGE(report.leaks_at_worst(), report.text());
            const std::size_t bitmaps = must(must(ImageReader::open(view)).bitmaps()).size();
            BOOST_REQUIRE(bitmaps == 3 || bitmaps == 4);
            // And now without a fault.
            auto disk = must(Disk::open(memory, options));
            must(disk->begin_writing());
            must(disk->close());
            const StoreImage after = memory.image();
            ImageView after_view(after);
            BOOST_REQUIRE_EQUAL(must(must(ImageReader::open(after_view)).bitmaps()).size(), 4u);
        });
    }
    BOOST_TEST(struck > 20u);
}

BOOST_AUTO_TEST_CASE(random_lives_survive_a_fault)
{
    for (const std::uint64_t seed : seeds(150)) {
        SEEDED(seed);
        Random random(seed);
        const ImageSpec spec = random_spec(random, 0, 1 << 20);
        BOOST_TEST_INFO_SCOPE(spec.text());
        const FaultKind &kind = random.pick(fault_kinds);
        if (kind.fault.kinds == Fault::reads)
            continue;  // the driver reads to learn
        BOOST_TEST_INFO_SCOPE(kind.name);
        Fault fault = kind.fault;
        fault.nth = random.between(1, 60);
        FaultPlan plan(fault);
        const BitmapKeeping keeping = random.pick(keepings);
        BOOST_TEST_INFO_SCOPE(keeping);
        Trial trial(plan, keeping, spec);
        trial.with_fault([&] {
            for (int step = 0; step < 60; ++step)
                trial.driver().step({0, trial.disk().size()});
        });
        trial.judge();
    }
}

BOOST_AUTO_TEST_SUITE_END()
