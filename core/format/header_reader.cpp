// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/header_reader.h"

#include <algorithm>

#include "core/format/limits.h"

namespace qcow2 {

Result<Buffer> read_beginning(ByteStore &store)
{
    Buffer bytes(std::min<std::uint64_t>(store.size(), 4096));
    TRY(store.read(0, bytes));
    return bytes;
}

Result<HeaderArea> read_header_area(ByteStore &store, Buffer &beginning)
{
    Result<HeaderArea> area = decode_header_area(beginning);
    const auto header = decode_header(beginning);
    if (!header)
        return area;
    const std::uint64_t cluster_end = std::min(store.size(), header->geometry().cluster_size());
    const std::size_t there = beginning.size();
    if (there >= cluster_end) {
        beginning.resize(cluster_end);
        return area;
    }
    // It may be longer. If it is wrong, the cluster tells in which way.
    if (area && area->named_end() <= there)
        return area;
    beginning.resize(cluster_end);
    TRY(store.read(there, sub(MutableBytes(beginning), there, cluster_end - there)));
    area = decode_header_area(beginning);
    if (area)
        beginning.resize(std::min(cluster_end, align_up(area->named_end(), limits::sector)));
    return area;
}

}  // namespace qcow2
