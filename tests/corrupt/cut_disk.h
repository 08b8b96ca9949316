// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A disk of which the file was cut: what its last clusters lead to is behind the end.

#pragma once

#include <boost/test/unit_test.hpp>

#include <functional>

#include "core/check/check.h"
#include "core/disk.h"
#include "core/format/findings.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"

namespace lost_names {

using namespace qcow2;
using namespace qcow2::test;

inline constexpr std::uint64_t cs = 4096;
inline constexpr std::uint64_t lost_from = 20;  // guest clusters
inline constexpr std::uint64_t clusters = 30;

// Clusters of the guest one after the other, of which the last ten are behind the
// end of the file.
inline ImageSpec spec_of(bool snapshot)
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 4 << 20;
    for (std::uint64_t i = 0; i < clusters; ++i)
        spec.clusters[i] = Preset::data;
    if (snapshot)
        spec.clusters[600] = Preset::snapshot_data;  // behind all of them
    BitmapSpec bitmap;
    bitmap.granularity_bits = 12;
    bitmap.enabled = false;
    bitmap.set = {{0, 3}};
    spec.bitmaps = {bitmap};
    return spec;
}

// The image that was cut. counted: by the refcounts of what is behind the end.
inline StoreImage cut_image(bool counted, const std::function<void(Patient &)> &change = {})
{
    Patient patient(spec_of(false));
    const std::uint64_t end = patient.host(lost_from);
    for (std::uint64_t i = lost_from; i < clusters && !counted; ++i)
        patient.set_refcount(patient.host(i), 0);
    if (change)
        change(patient);
    return cut(patient.store().image(), end);
}

inline std::uint64_t past_end(const StoreImage &image,
                              Finding finding = Finding::data_cluster_past_end)
{
    ImageView view(image);
    std::uint64_t count = 0;
    for (const CheckFinding &f : must(check(view)).findings)
        count += f.finding == finding ? f.count : 0;
    return count;
}

inline Result<void> read_cluster(Disk &disk, std::uint64_t cluster)
{
    Buffer bytes(cs);
    return disk.read(GuestOffset(cluster * cs), bytes);
}

inline void is_lost(Disk &disk, std::uint64_t cluster)
{
    const auto read = read_cluster(disk, cluster);
    BOOST_REQUIRE_MESSAGE(!read, "guest cluster " << cluster << " must be an error");
    BOOST_CHECK(read.error().code == Errc::corrupt);
    // Where it was.
    BOOST_TEST(read.error().what.find("host offset 0x") != std::string::npos);
    BOOST_TEST(read.error().what.find("0x80000000") == std::string::npos, read.error().what);
    BOOST_CHECK(!disk.write(GuestOffset(cluster * cs), Buffer(cs, 9), false));
}

// Writes so much that is new that the file covers all it had, and more.
inline void grow(Disk &disk)
{
    for (std::uint64_t i = 0; i < 64; ++i)
        must(disk.write(GuestOffset((700 + i) * cs), Buffer(cs, std::uint8_t(i + 1)), false));
    must(disk.flush());
}

inline void expect_what_grew(Disk &disk)
{
    for (std::uint64_t i = 0; i < 64; ++i) {
        Buffer bytes(cs);
        must(disk.read(GuestOffset((700 + i) * cs), bytes));
        BOOST_REQUIRE((bytes == Buffer(cs, std::uint8_t(i + 1))));
    }
}

inline void expect_lost(Disk &disk)
{
    for (std::uint64_t i = 0; i < lost_from; ++i)
        must(read_cluster(disk, i));
    for (std::uint64_t i = lost_from; i < clusters; ++i)
        is_lost(disk, i);
}

// By a disk that is opened anew.
inline void expect_lost_and_what_grew(ByteStore &store)
{
    const auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    expect_lost(*disk);
    expect_what_grew(*disk);
}

}  // namespace lost_names
