// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A case for each finding of format/findings.h: a sound image, one thing made wrong,
// and what becomes of it.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "core/format/findings.h"
#include "tests/support/patient.h"

namespace corrupt_test {

using namespace qcow2;
using namespace qcow2::test;

enum class Fate {
    refused,         // open() is an error
    read_only,       // why_read_only() has it; everything can be read
    read_only_here,  // the same, but what lies under the wrong entry cannot
    bad_here,        // an error at the one guest cluster, the others are served
    not_written,     // read; a write that would do harm is an error
    served,          // as if nothing were wrong: check alone tells
};

// The guest cluster of which the mapping is made wrong, in the second L2 table.
inline constexpr std::uint64_t bad_cluster = 600;

struct Case {
    Fate fate;
    ImageSpec spec;
    // Makes it wrong; returns the place that the message must have.
    std::function<std::string(Patient &)> make_wrong;
    bool check_sees = true;
    std::uint64_t cut_at = 0;                    // the file ends here; 0: where it did
    std::uint64_t readable = ~std::uint64_t(0);  // bytes that are as they were
    std::uint64_t read_max = 1 << 20;            // the longest single read there may be
    bool with_data_file = false;                 // it is there, and may be opened
};

const std::map<Finding, Case> &cases();

}  // namespace corrupt_test
