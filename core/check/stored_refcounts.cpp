// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/stored_refcounts.h"

namespace qcow2 {

void StoredRefcounts::open(ByteStore &store, const Geometry &geometry, std::uint64_t file_size)
{
    store_ = &store;
    geometry_ = geometry;
    file_size_ = file_size;
}

void StoredRefcounts::add_block(std::uint64_t index, std::uint64_t offset)
{
    blocks_.resize(std::max<std::size_t>(blocks_.size(), index + 1));
    blocks_[index] = offset;
}

Result<Bytes> StoredRefcounts::block(std::uint64_t index)
{
    if (index < blocks_.size() && index == last_ && !last_bytes_.empty())
        return last_bytes_;
    if (!has_block(index))
        return Bytes();

    constexpr std::size_t cache_bytes_max = 32 << 20;
    constexpr std::size_t cache_blocks_max = 1 << 16;
    const std::uint64_t first = index << geometry_.refcount_block_bits();
    const std::uint64_t file_clusters = geometry_.clusters_for(file_size_) + 1;
    if (first >= file_clusters)
        return Bytes();
    const std::uint64_t entries =
        std::min(file_clusters - first, geometry_.refcount_block_entries());
    const std::uint64_t length = align_up(div_ceil(entries << geometry_.refcount_order, 8), 8);
    auto it = cache_.find(index);
    if (it == cache_.end()) {
        const ByteStore::Stretch stretch = store_->stretch(blocks_[index], length);
        Buffer bytes(stretch.hole && stretch.length >= length ? 0 : length);
        TRY(store_->read(blocks_[index], bytes));
        if (cache_bytes_ + bytes.size() > cache_bytes_max || cache_.size() == cache_blocks_max) {
            cache_.clear();
            cache_bytes_ = 0;
        }
        cache_bytes_ += bytes.size();
        it = cache_.emplace(index, std::move(bytes)).first;
    }
    last_ = index;
    last_bytes_ = it->second;
    return last_bytes_;
}

Result<std::uint64_t> StoredRefcounts::of(std::uint64_t cluster)
{
    const Bytes bytes = TRY(block(cluster >> geometry_.refcount_block_bits()));
    const std::uint64_t index = cluster & (geometry_.refcount_block_entries() - 1);
    if (index >= std::uint64_t(bytes.size()) * 8 >> geometry_.refcount_order)
        return std::uint64_t(0);
    return load_refcount(bytes, geometry_.refcount_order, index);
}

}  // namespace qcow2
