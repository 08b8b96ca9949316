// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// CompressedClusters: the content of compressed clusters, decompressed once
// and kept for a while. Several requests for one cluster at the same time wait
// for the one that decompresses it.
//
// Nobody writes compressed data while the image is ours, and where they were
// no other compressed data come: what is kept never gets old.
//
// Any thread. No lock is held while data are read and decompressed.

#pragma once

#include <cstdint>
#include <list>
#include <memory>

#include "core/base/byte_store.h"
#include "core/base/mutex.h"
#include "core/format/cluster_mapping.h"
#include "core/format/compression.h"

namespace qcow2 {

class CompressedClusters {
public:
    CompressedClusters(ByteStore &store, CompressionType type, std::uint64_t cluster_size);

    // A whole cluster. corrupt: names the host offset.
    Result<std::shared_ptr<const Buffer>> get(const Compressed &compressed) EXCLUDES(mutex_);

private:
    struct Kept {
        Compressed compressed;
        std::shared_ptr<const Buffer> content;  // none yet: somebody is at it
    };

    Result<std::shared_ptr<const Buffer>> load(const Compressed &compressed);
    void loaded(const Compressed &compressed, std::shared_ptr<const Buffer> content)
        EXCLUDES(mutex_);

    ByteStore &store_;
    const CompressionType type_;
    const std::uint64_t cluster_size_;
    const std::size_t kept_max_;

    Mutex mutex_{Rank::decompressed};
    Condition loaded_;
    std::list<Kept> kept_ GUARDED_BY(mutex_);  // most recently used first
};

}  // namespace qcow2
