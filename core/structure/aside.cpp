// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/aside.h"

#include <new>

namespace qcow2 {

// If it is not known which header the file has, it may name what was taken.
Aside::~Aside()
{
    if (!image_.header().certain())
        return;
    for (const HostRun &run : taken_)
        try {
            image_.allocator().give_back(run);
        } catch (const std::bad_alloc &) {  // it leaks
        }
}

Result<HostRun> Aside::take(std::uint64_t count)
{
    const HostRun run = TRY(image_.allocator().take_contiguous(count));
    taken_.push_back(run);
    return run;
}

Result<HostOffset> Aside::write(Buffer bytes)
{
    const Geometry &geometry = image_.geometry();
    const HostRun run = TRY(take(geometry.clusters_for(bytes.size())));
    bytes.resize(run.count * geometry.cluster_size());
    const HostOffset offset = geometry.offset_of(run.first);
    TRY(image_.store().write(offset.value, bytes));
    return offset;
}

void Aside::replace(HostRun old)
{
    if (old.count != 0)
        replaced_.push_back(old);
}

Result<void> Aside::commit(const ImageHeader::Change &change)
{
    TRY(image_.store().flush());
    TRY(image_.header().commit(change));
    taken_.clear();
    for (const HostRun &run : replaced_) {
        image_.metadata().remove(run);  // it may be found free, and taken
        image_.allocator().lower(run);  // W3
    }
    replaced_.clear();
    return {};
}

}  // namespace qcow2
