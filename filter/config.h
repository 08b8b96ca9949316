// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The command line: our own keys, and what others' keys tell us of the file
// below. The keys stand in one table in config.cpp; the help text is made from
// it. Used by one thread, before the server serves.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/disk.h"
#include "filter/maintenance.h"
#include "filter/named_files.h"
#include "filter/scratch_file.h"

namespace qcow2 {

struct Config {
    DiskOptions disk;
    bool lock = true;
    std::optional<std::uint64_t> create_size;  // qcow2-create=, bytes
    NamedFiles named_files;                    // qcow2-files=
    ScratchFolder scratch;                     // qcow2-scratch=, qcow2-scratch-max=
    std::string control;                       // qcow2-control=, an absolute path; empty: none
    std::optional<Maintenance> maintenance;    // to be done instead of serving

    // What file= and fd= named on the way to the plugin: absolute paths. More
    // than one, and we do not know which bytes are where.
    std::vector<std::string> files;

    // The keys that ask for a change of the image, "bitmap=" and so on; empty if
    // there is none.
    std::string keys_that_change() const;
};

// True: the key was ours and is done with. False: it goes on to the next layer.
// Errors are invalid, with the key in the message.
Result<bool> take_key(Config &config, std::string_view key, const char *value);

// For one whose key nobody knows, if it may have been meant for us: what was meant, and all that
// there are, in several lines. Empty else.
std::string advice_on(std::string_view key);

// One line for each key. Lives as long as the filter.
const char *config_help();

}  // namespace qcow2
