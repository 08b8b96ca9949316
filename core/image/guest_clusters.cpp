// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/guest_clusters.h"

#include <algorithm>

#include "core/base/arith.h"
#include "core/base/rare.h"
#include "core/format/limits.h"

namespace qcow2 {

Result<void> CountedClusters::pad_last()
{
    RARE("the last cluster of the file is padded for the guest");
    return bytes_.grow(align_up(bytes_.size(), cluster_size_));
}

Result<Allocator::Taken> DataFileClusters::take(GuestCluster first, std::uint64_t count)
{
    TRY(reach((first.value + count) << geometry_.cluster_bits));
    return Allocator::Taken{{HostCluster(first.value), count}, false};
}

Result<void> DataFileClusters::reach(std::uint64_t end)
{
    end = std::min(align_up(end, limits::sector), disk_size_);
    return end > bytes_.size() ? bytes_.grow(end) : Result<void>();
}

Result<void> DataFileClusters::write_clusters(std::uint64_t offset, Bytes bytes)
{
    return bytes_.write(offset,
                        sub(bytes, 0, std::min<std::uint64_t>(bytes.size(), disk_size_ - offset)));
}

}  // namespace qcow2
