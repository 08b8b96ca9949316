// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/control_events.h"

#include "core/control/command.h"
#include "filter/control_server.h"

namespace qcow2 {

namespace {

constexpr std::chrono::seconds quiet_time(1);

}  // namespace

void ControlEvents::tell(const Notice &notice)
{
    switch (notice.kind) {
    case Notice::Kind::bitmap_given_up:
        return server_.tell(
            "BITMAP_GIVEN_UP",
            {{"node", disk_name}, {"name", notice.name}, {"reason", notice.reason}});
    case Notice::Kind::image_corrupted:
        return server_.tell("BLOCK_IMAGE_CORRUPTED", {{"device", disk_name},
                                                      {"node-name", disk_name},
                                                      {"msg", notice.reason},
                                                      {"fatal", true}});
    case Notice::Kind::backup_broken:
        return server_.tell("BACKUP_BROKEN", {{"id", notice.name}, {"reason", notice.reason}});
    case Notice::Kind::backup_expired: return server_.tell("BACKUP_EXPIRED", {{"id", notice.name}});
    }
}

void ControlEvents::tell_of_failure(std::string_view operation, const Error &error)
{
    if (error.code != Errc::io && error.code != Errc::lost && error.code != Errc::no_space &&
        error.code != Errc::corrupt)
        return;
    if (!is_new(std::string(operation) + std::string(to_string(error.code))))
        return;
    server_.tell("BLOCK_IO_ERROR", {{"device", disk_name},
                                    {"node-name", disk_name},
                                    {"operation", operation},
                                    {"action", "report"},
                                    {"nospace", error.code == Errc::no_space},
                                    {"reason", error.what}});
}

bool ControlEvents::is_new(const std::string &kind)
{
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = told_.find(kind);
    if (found != told_.end() && now - found->second < quiet_time)
        return false;
    told_[kind] = now;
    return true;
}

}  // namespace qcow2
