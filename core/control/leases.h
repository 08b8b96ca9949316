// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Leases: backups that were begun with a timeout. A lease is renewed by reading from
// the backup; where nobody has read for so long the backup ends as failed, which
// loses nothing (F4). So a backup program that dies does not cost scratch for ever.
//
// Used by who runs commands, one at a time.

#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "core/disk.h"

namespace qcow2 {

class Leases {
public:
    using Clock = std::chrono::steady_clock;

    void begin(const std::string &id, std::chrono::seconds timeout, Clock::time_point now);
    void end(const std::string &id) { leases_.erase(id); }
    bool none() const { return leases_.empty(); }

    // Renews those from which somebody has read since the last look, and ends the
    // backups whose time is over. To be called every second.
    void look(Disk &disk, Clock::time_point now);
    // What is left, seconds, rounded up; nullopt: there is no lease.
    std::optional<std::int64_t> left(const std::string &id, Clock::time_point now) const;

private:
    struct Lease {
        std::chrono::seconds timeout;
        Clock::time_point deadline;
        std::uint64_t bytes_read = 0;
    };
    std::map<std::string, Lease> leases_;
};

}  // namespace qcow2
