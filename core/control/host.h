// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Host: what the commands ask of the server that serves the disk. The roof
// implements it; the tests have one of their own. Commands run one at a time.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/control/leases.h"
#include "core/disk.h"

namespace qcow2 {

// What the server knows of the file below, and of who uses the disk.
struct HostState {
    std::string file;      // its path; empty: it is not known
    std::string nbd_uri;   // where clients of NBD come; empty: it is not known
    unsigned clients = 0;  // of NBD
    bool can_grow = true;  // the file below
    std::string why_not_grow;
    std::optional<std::uint64_t> free_bytes;    // where the file is
    std::optional<std::uint64_t> actual_bytes;  // that the file occupies
};

struct HostExport {
    std::string name;
    unsigned clients = 0;
};

class Host {
public:
    virtual ~Host() = default;

    // The disk; opened, and made ready as the keys ask, if no client has come yet.
    // It is there until leave(). The caller is like a client of NBD, and leaves as
    // one: after the last one the file is brought to what a clean stop leaves.
    virtual Result<Disk *> enter() = 0;
    virtual void leave() = 0;

    virtual HostState state() = 0;
    virtual std::vector<HostExport> exports() = 0;
    // The file is brought to what a clean stop leaves, also while clients of NBD are
    // connected, and stays so: every request that comes later fails. If it could not
    // be, all goes on as before.
    virtual Result<void> quit() = 0;
    // quit() has been here, and done it. Any thread.
    virtual bool ending() const = 0;

    Leases leases;
    std::uint64_t last_backup_number = 0;  // of those that were given no ID
};

}  // namespace qcow2
