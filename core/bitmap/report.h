// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the person at the terminal should know of the bitmaps of an image.

#pragma once

#include <string>
#include <vector>

#include "core/base/log.h"
#include "core/bitmap/directory.h"

namespace qcow2 {

struct ReportLine {
    LogLevel level = LogLevel::debug;  // warning: something is to be done about it
    std::string text;
};

// A line for each bitmap: name, granularity, state; how_much: how much is dirty
// in the file, which is read for it; for an inconsistent one why, and what to do.
// will_recover: what can become valid again is about to.
std::vector<ReportLine> report_bitmaps(Image &image, bool how_much, bool will_recover);

}  // namespace qcow2
