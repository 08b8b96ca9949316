// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Maintenance: what a key like qcow2-check= asks for. Its work is done instead
// of serving, once; the result is printed on standard output, and nbdkit ends
// with an exit code that tells it. (A server's command line is run again at
// every restart, and what destroys must not happen twice unnoticed.)
//
// A new such key needs an entry in the table of config.cpp, whose parser sets
// Config::maintenance by set_maintenance(), and the work. The engine does the rest
// (ServedImage::maintain): at the prompt on a local file, else when the layer below
// can be opened, always with the locks taken.

#pragma once

#include <functional>
#include <string>

#include "core/base/byte_store.h"
#include "core/base/result.h"
#include "core/check/repair.h"
#include "core/disk.h"

namespace qcow2 {

struct Maintenance {
    // As qemu-img check has them. An error of the work is "failed".
    static constexpr int done = 0, failed = 1, corrupt = 2, leaks = 3;

    struct Outcome {
        std::string text;  // lines, printed
        int exit_code = done;
    };

    std::string key;       // as it was given: "qcow2-check=all"
    bool changes = false;  // it writes to the image; the server must not be read-only
    // A dirty image (lazy refcounts) is repaired before the work, if it changes.
    bool repaired_first = true;
    // What is wrong with bitmaps does not keep it from its work.
    bool mends_bitmaps = false;
    // The store is the image's, the options are fit for Disk::open() (without
    // bitmap=). Whoever opens a disk closes it. One thread.
    std::function<Result<Outcome>(ByteStore &, const DiskOptions &)> work;
};

// qcow2-check=report (nullopt), leaks, all.
Maintenance check_maintenance(std::string key, std::optional<RepairKind> kind);

// bitmap-remove=NAME; nullopt: bitmap-remove-all=yes.
Maintenance remove_maintenance(std::string key, std::optional<std::string> name);

// qcow2-revert=ID-or-NAME.
Maintenance revert_maintenance(std::string key, std::string id_or_name);

// qcow2-shrink=SIZE or OLD:SIZE, bytes. A disk that is not larger is left as it is.
struct Shrinking {
    std::uint64_t to = 0;               // a multiple of 512
    std::optional<std::uint64_t> from;  // a disk of any other size is not cut
};
Maintenance shrink_maintenance(std::string key, const Shrinking &shrinking);

}  // namespace qcow2
