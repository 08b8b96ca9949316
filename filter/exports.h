// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The exports of a disk by their names: the one place where a name becomes one,
// and where the list of them is made.
//
//   (empty)               the disk
//   snapshot/ID-or-NAME   an internal snapshot, as it is, while the disk is written
//
// Any thread.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "filter/export.h"

namespace qcow2 {

// One that a client may ask for. Names are UTF-8 without anything that is not seen.
struct ExportName {
    std::string name;
    std::string description;
};

// All that there are at this moment. One that has no name that can be listed, or is of
// no use, is left out.
std::vector<ExportName> list_exports(Disk &disk);

// not_found: there is none of this name, and the message lists those that there are.
// The disk outlives the export.
Result<std::unique_ptr<Export>> open_export(Disk &disk, std::string_view name);

}  // namespace qcow2
