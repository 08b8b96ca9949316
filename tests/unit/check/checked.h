// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images to be made wrong, and what check says of them.

#pragma once

#include "core/check/check.h"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <chrono>

#include "core/base/log.h"
#include "core/format/table_entry.h"
#include "tests/support/fault_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/patient.h"

namespace check_ {

using namespace qcow2;
using namespace qcow2::test;

inline constexpr std::uint64_t copied = std::uint64_t(1) << 63;

inline ImageSpec plain_spec()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 4 << 20;  // two L2 tables of 512 entries
    spec.clusters = {{0, Preset::data},
                     {1, Preset::data},
                     {2, Preset::zero},
                     {5, Preset::zero_with_cluster},
                     {600, Preset::data}};
    return spec;
}

inline ImageSpec with_snapshot(ImageSpec spec)
{
    spec.snapshot = true;
    spec.clusters[7] = Preset::shared_data;
    spec.clusters[8] = Preset::snapshot_data;
    return spec;
}

inline ImageSpec snapshot_spec() { return with_snapshot(plain_spec()); }

inline ImageSpec bitmap_spec(bool in_use = false)
{
    ImageSpec spec = plain_spec();
    BitmapSpec bitmap;
    bitmap.granularity_bits = 12;
    bitmap.in_use = in_use;
    bitmap.set = {{0, 3}};
    spec.bitmaps = {bitmap};
    return spec;
}

inline CheckReport report_of(Patient &patient);

inline bool has_note(Patient &patient, const std::string &text)
{
    const CheckReport report = report_of(patient);
    BOOST_TEST(report.sound(), report.text());
    return report.text().find("note: " + text) != std::string::npos;
}

inline CheckReport report_of(Patient &patient)
{
    auto report = check(patient.store());
    BOOST_REQUIRE_MESSAGE(report, (report ? "" : report.error().what));
    return *std::move(report);
}

inline std::string text_of(const Result<CheckReport> &report)
{
    return report ? report->text() : report.error().what;
}

inline std::uint64_t count_of(const CheckReport &report, Finding finding)
{
    std::uint64_t count = 0;
    for (const CheckFinding &f : report.findings)
        if (f.finding == finding)
            count += f.count;
    return count;
}

// The finding is there, and the image is not sound.
inline void expect(Patient &patient, Finding finding)
{
    const CheckReport report = report_of(patient);
    BOOST_TEST(count_of(report, finding) > 0, name_of(finding) << ":\n" << report.text());
    BOOST_TEST(!report.leaks_at_worst());
}

// Only this one, so often.
inline void expect_only(Patient &patient, Finding finding, std::uint64_t count = 1)
{
    const CheckReport report = report_of(patient);
    BOOST_TEST(count_of(report, finding) == count, name_of(finding) << ":\n" << report.text());
    BOOST_TEST(report.corruptions + report.leaks == count, report.text());
    BOOST_TEST(report.leaks_at_worst() == (finding == Finding::refcount_too_high));
}

}  // namespace check_
