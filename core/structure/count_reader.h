// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// CountReader: refcounts as they are now, for one who goes through many clusters that mostly
// follow each other: 64 of them are read at a time. While it is used counts do not change, or
// those who change them say so (forget()). One thread.

#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "core/base/result.h"
#include "core/format/units.h"
#include "core/image/image.h"

namespace qcow2 {

class CountReader {
public:
    explicit CountReader(Image &image) : image_(image) {}

    Result<std::uint64_t> of(HostCluster cluster)
    {
        const HostCluster first(align_down(cluster.value, counts_.size()));
        if (first_ != first) {
            first_.reset();
            TRY(image_.allocator().refcounts(first, counts_));
            first_ = first;
        }
        return counts_[cluster - first];
    }

    void forget() { first_.reset(); }

private:
    Image &image_;
    std::array<std::uint64_t, 64> counts_;
    std::optional<HostCluster> first_;  // of counts_
};

}  // namespace qcow2
