// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/leases.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/notice.h"

namespace qcow2 {

void Leases::begin(const std::string &id, std::chrono::seconds timeout, Clock::time_point now)
{
    leases_[id] = {timeout, now + timeout, 0};
}

void Leases::look(Disk &disk, Clock::time_point now)
{
    for (auto next = leases_.begin(); next != leases_.end();) {
        const auto here = next++;
        auto &[id, lease] = *here;
        const auto backup = disk.backup(id);
        if (!backup) {
            leases_.erase(here);  // somebody else has ended it
            continue;
        }
        const std::uint64_t bytes_read = backup->disk->bytes_read();
        if (bytes_read != lease.bytes_read) {
            lease.bytes_read = bytes_read;
            lease.deadline = now + lease.timeout;
        }
        if (now < lease.deadline)
            continue;
        const std::string ended = id;
        leases_.erase(here);
        if (const auto done = disk.end_backup(ended, false); !done) {
            log_warning(done.error().what);
            continue;
        }
        log_warning("backup {} has ended as failed: nobody has read from it in time", quote(ended));
        notify({Notice::Kind::backup_expired, ended, ""});
    }
}

std::optional<std::int64_t> Leases::left(const std::string &id, Clock::time_point now) const
{
    const auto found = leases_.find(id);
    if (found == leases_.end())
        return std::nullopt;
    return std::max<std::int64_t>(
        0, std::chrono::ceil<std::chrono::seconds>(found->second.deadline - now).count());
}

}  // namespace qcow2
