// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/compressed_clusters.h"

#include <algorithm>

namespace qcow2 {

namespace {
constexpr std::uint64_t kept_bytes = 4 << 20;
constexpr std::size_t kept_min = 4;
}  // namespace

CompressedClusters::CompressedClusters(ByteStore &store, CompressionType type,
                                       std::uint64_t cluster_size)
    : store_(store),
      type_(type),
      cluster_size_(cluster_size),
      kept_max_(std::clamp<std::size_t>(kept_bytes / cluster_size, kept_min, 64))
{
}

Result<std::shared_ptr<const Buffer>> CompressedClusters::get(const Compressed &compressed)
{
    {
        Locked lock(mutex_);
        for (;;) {
            const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept &kept) {
                return kept.compressed == compressed;
            });
            if (found == kept_.end())
                break;
            if (found->content) {
                kept_.splice(kept_.begin(), kept_, found);
                return found->content;
            }
            loaded_.wait(mutex_);
        }
        kept_.push_front({compressed, nullptr});
    }

    try {
        auto content = load(compressed);
        loaded(compressed, content ? *content : nullptr);
        return content;
    } catch (...) {
        loaded(compressed, nullptr);
        throw;
    }
}

// The load is over, and nobody has to wait for it any more. Without content the cluster is
// forgotten, and each request that has waited tries for itself.
void CompressedClusters::loaded(const Compressed &compressed, std::shared_ptr<const Buffer> content)
{
    Locked lock(mutex_);
    const auto mine = std::find_if(kept_.begin(), kept_.end(),
                                   [&](const Kept &kept) { return kept.compressed == compressed; });
    if (content)
        mine->content = std::move(content);
    else
        kept_.erase(mine);
    // Those that are being loaded stay.
    for (auto oldest = kept_.end(); kept_.size() > kept_max_ && oldest != kept_.begin();)
        if ((--oldest)->content)
            oldest = kept_.erase(oldest);
    loaded_.notify_all();
}

Result<std::shared_ptr<const Buffer>> CompressedClusters::load(const Compressed &compressed)
{
    Buffer bytes(compressed.bytes_max);
    auto cluster = std::make_shared<Buffer>(cluster_size_);
    const std::string where =
        formatted("compressed data at host offset {:#x}", compressed.host.value);
    TRY(store_.read(compressed.host.value, bytes).in(where));
    TRY(decompress(type_, bytes, *cluster).in(where));
    return std::shared_ptr<const Buffer>(std::move(cluster));
}

}  // namespace qcow2
