// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images whose disk has gone on since their snapshots were made, for tests of
// what happens to snapshots.

#pragma once

#include "core/check/check.h"
#include "core/disk.h"
#include "tests/support/damage.h"
#include "tests/support/image_builder.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/verdict.h"

namespace qcow2::test {

struct SnapshotOperation {
    const char *name;
    Result<void> (*run)(Disk &);
};

// On images_with_snapshots(): "kept" is the one that is reverted to or deleted.
inline const SnapshotOperation snapshot_operations[] = {
    {"create",
     [](Disk &disk) {
         return disk.create_snapshot({"made", 1700000000, 5});
     }},
    {"delete", [](Disk &disk) { return disk.delete_snapshot("kept"); }},
    {"revert", [](Disk &disk) { return disk.revert("kept"); }},
};

inline std::ostream &operator<<(std::ostream &out, const SnapshotOperation &operation)
{
    return out << operation.name;
}

// With snapshot "kept", perhaps of another disk size than the disk has now.
inline StoreImage image_with_snapshots(Random &random, ImageSpec &spec)
{
    spec = random_spec(random, random.pick<std::uint32_t>({9, 12, 16}), 200000);
    spec.size = align_up(spec.size, 512);
    if (spec.refcount_order < 2)
        spec.refcount_order = 2;  // for four names
    MemoryStore store(build_image(spec).image);
    const auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    const auto write = [&](std::uint32_t generation) {
        for (std::uint64_t n = random.between(1, 4); n > 0; --n) {
            const Range range = random.range(disk->size(), 40000, 4096);
            must(disk->write(GuestOffset(range.begin),
                             payload(GuestOffset(range.begin), range.length(), generation), false));
        }
    };
    write(2);
    must(disk->create_snapshot({"kept", 1700000000, 0}));
    if (spec.version >= 3 && random.coin())
        must(disk->resize(align_up(random.between(512, 400000), 512)));
    write(3);
    must(disk->close());
    if (random.coin())
        damage(store, random, Damage::tables);
    return store.image();
}

// The options of a store, and a length for the file, with which this just
// works: what needs much room is then done in place.
inline StoreOptions without_room(StoreImage &image, const ImageSpec &spec,
                                 const SnapshotOperation &operation)
{
    const std::uint64_t cluster_size = spec.geometry().cluster_size();
    for (std::uint64_t more = 0;; ++more) {
        StoreImage longer = image;
        longer.size = align_up(image.size, cluster_size) + more * cluster_size;
        StoreOptions options;
        options.can_grow = false;
        options.size_limit = longer.size;
        MemoryStore store(longer, options);
        const auto disk = must(Disk::open(store, {}));
        const Result<void> done = operation.run(*disk);
        BOOST_REQUIRE_MESSAGE(done || done.error().code == Errc::no_space, words(done));
        if (!done)
            continue;
        image = longer;
        return options;
    }
}

// Of what is done in place there may be left: counts that are too high, and with
// make and delete bits 63 that are clear where the refcount is 1.
inline void in_place_is_harmless(const StoreImage &image, const SnapshotOperation &operation)
{
    ImageView view(image);
    const CheckReport report = must(check(view));
    const bool bits = std::string_view(operation.name) != "revert";
    BOOST_REQUIRE_MESSAGE(report.leaks_at_worst() || (bits && harmless_in_place(report)),
                          report.text());
}

}  // namespace qcow2::test
