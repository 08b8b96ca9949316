// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What if the power fails while an image is being repaired? At every moment it
// is no worse than before, by core/check; the guest's bytes are there; and a
// second repair ends what the first began.

#include <algorithm>
#include <map>

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "core/check/repair.h"
#include "tests/support/crash_store.h"
#include "tests/support/damage.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(repair_crash)

namespace {

// True if the one is no worse than the other. In place, with bits to change and
// no room to do it aside, bit 63 may be wrong in between: then only what has no
// such finding is compared.
bool no_worse(const CheckReport &now, const CheckReport &before)
{
    return now.corruptions <= before.corruptions &&
           (now.leaks <= before.leaks || before.corruptions > now.corruptions);
}

bool is_dirty(MemoryStore &store)
{
    Buffer byte(1);
    must(store.read(79, byte));
    return byte[0] & 1;
}

void make_dirty(MemoryStore &store)
{
    Buffer byte(1);
    must(store.read(79, byte));
    byte[0] |= 1;
    must(store.write(79, byte));
}

// What was wrong before the repair. Refcounts of clusters behind the end of the file are leaks
// only when the file gets there, whoever made it longer: so it is asked of a file of this size.
class Before {
public:
    explicit Before(const StoreImage &image) : image_(image) {}

    const CheckReport &at(std::uint64_t size)
    {
        size = std::max(size, image_.size);
        auto known = reports_.find(size);
        if (known == reports_.end()) {
            MemoryStore store(image_);
            must(store.grow(size));
            known = reports_.emplace(size, must(check(store))).first;
        }
        return known->second;
    }

private:
    const StoreImage image_;
    std::map<std::uint64_t, CheckReport> reports_;  // by size
};

void judge(const StoreImage &image, const CheckReport &before, const ReferenceDisk &reference,
           bool in_place_with_bits, bool was_dirty)
{
    MemoryStore store(image);
    const CheckReport now = must(check(store));
    // Who finds no dirty bit writes without a repair.
    if (was_dirty && !is_dirty(store))
        BOOST_REQUIRE_MESSAGE(now.leaks_at_worst(), "not dirty, and:\n" << now.text());
    BOOST_REQUIRE_MESSAGE(in_place_with_bits || no_worse(now, before), before.text() << "now:\n"
                                                                                     << now.text());
    const RepairReport report = must(repair(store, RepairKind::all));
    BOOST_REQUIRE_MESSAGE(report.after.sound(), report.before.text() << report.after.text());
    BOOST_REQUIRE_EQUAL(clean_stop_verdict(store.image(), reference), "");
}

enum class Room { drawn, inside };  // inside: of a store that cannot grow, in the file

void repair_and_cut(std::uint64_t seed, Damage kind, Room room)
{
    SEEDED(seed);
    Random random(seed);
    const ImageSpec spec = random_spec(random, 0, 1 << 20);
    BOOST_TEST_INFO_SCOPE(spec.text());
    const BuiltImage built = build_image(spec);
    MemoryStore ill(built.image);
    BOOST_TEST_INFO_SCOPE(damage(ill, random, kind));
    const bool dirty = spec.version >= 3 && random.one_in(2);
    if (dirty)
        make_dirty(ill);
    const bool in_place = kind != Damage::structure && random.one_in(4) && room == Room::drawn;
    if (room == Room::inside)
        must(ill.grow(ill.size() + 100 * spec.geometry().cluster_size()));
    Before before(ill.image());
    StoreOptions options;
    options.discarded = Discarded::garbage;
    if (in_place || room == Room::inside) {
        options.can_grow = false;
        options.size_limit = ill.size();
    }

    CrashStore store(Life::of(ill.image()), options);
    const RepairKind by =
        kind <= Damage::shares && seed % 2 == 0 ? RepairKind::leaks : RepairKind::all;
    BOOST_REQUIRE(must(repair(store, by)).after.sound());
    CrashWalk walk(store);
    const std::uint64_t step = walk.events() / 40 + 1;
    for (std::uint64_t event = 0; event <= walk.events(); event += step) {
        walk.advance_to(event);
        for (unsigned mode = 0; mode < crash_modes; ++mode) {
            const StoreImage left = walk.power_cut(random, static_cast<CrashMode>(mode));
            judge(left, before.at(left.size), built.reference, in_place, dirty);
        }
    }
}

}  // namespace

BOOST_DATA_TEST_CASE(a_power_cut_at_any_moment_of_a_repair_makes_nothing_worse,
                     data::make({Damage::leaks, Damage::shares, Damage::counts, Damage::bits,
                                 Damage::structure}),
                     kind)
{
    for (const std::uint64_t seed : seeds(12))
        repair_and_cut(seed, kind, Room::drawn);
}

BOOST_DATA_TEST_CASE(nor_where_the_room_for_it_is_inside_the_file,
                     data::make({Damage::shares, Damage::bits, Damage::structure}), kind)
{
    for (const std::uint64_t seed : seeds(6))
        repair_and_cut(seed, kind, Room::inside);
}

BOOST_AUTO_TEST_SUITE_END()
