// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/metadata_map.h"

#include <mutex>

namespace qcow2 {

bool MetadataMap::add(HostRun run)
{
    std::unique_lock lock(mutex_);
    bool all_new = true;
    for (std::uint64_t i = 0; i < run.count; ++i)
        all_new &= clusters_.insert(run.first + i).second;
    return all_new;
}

void MetadataMap::remove(HostRun run)
{
    std::unique_lock lock(mutex_);
    for (std::uint64_t i = 0; i < run.count; ++i)
        clusters_.erase(run.first + i);
}

bool MetadataMap::overlaps(HostRun run) const
{
    std::shared_lock lock(mutex_);
    for (std::uint64_t i = 0; i < run.count; ++i)
        if (clusters_.contains(run.first + i))
            return true;
    return false;
}

}  // namespace qcow2
