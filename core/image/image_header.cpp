// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/image_header.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/log.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

using limits::sector;

// The sectors in which two clusters of equal size differ: first and end.
std::pair<std::size_t, std::size_t> differing(const Buffer &a, const Buffer &b)
{
    std::size_t first = a.size() / sector, end = 0;
    for (std::size_t i = 0; i < a.size() / sector; ++i)
        if (std::memcmp(&a[i * sector], &b[i * sector], sector) != 0) {
            first = std::min(first, i);
            end = i + 1;
        }
    return {first, end};
}

// The names of features are for people; all else must be the same.
HeaderArea without_feature_names(HeaderArea area)
{
    std::erase_if(area.extensions,
                  [](const Extension &e) { return e.type == ExtensionType::feature_names; });
    return area;
}

bool says_the_same(const Buffer &cluster, const HeaderArea &area)
{
    const auto decoded = decode_header_area(cluster);
    return decoded && without_feature_names(*decoded) == without_feature_names(area);
}

}  // namespace

ImageHeader::ImageHeader(ByteStore &store, HeaderArea area, Buffer cluster)
    : store_(store), area_(std::move(area)), cluster_(std::move(cluster))
{
}

HeaderArea ImageHeader::area() const
{
    Locked lock(mutex_);
    return area_;
}

// Writes sectors [first, end) durably; cluster_ follows what the file says.
Result<void> ImageHeader::write_sectors(const Buffer &cluster, std::size_t first, std::size_t end)
{
    if (first >= end)
        return {};
    const Bytes bytes = sub(Bytes(cluster), first * sector, (end - first) * sector);
    TRY(store_.write_durable(first * sector, bytes).in("header"));
    std::copy(bytes.begin(), bytes.end(), cluster_.begin() + first * sector);
    return {};
}

// A write that failed may have landed all the same. Until the old header is
// back nobody knows what the file names.
Result<void> ImageHeader::restore()
{
    certain_ = false;
    TRY(write_sectors(old_, 1, old_.size() / sector));
    TRY(write_sectors(old_, 0, 1));
    certain_ = true;
    return {};
}

bool ImageHeader::certain() const
{
    Locked lock(mutex_);
    return certain_;
}

Result<void> ImageHeader::commit(const Change &change)
{
    Locked lock(mutex_);
    if (!certain_)
        TRY(restore());
    HeaderArea area = area_;
    change(area);
    const Buffer cluster = TRY(encode_header_area(area, cluster_).in("header"));
    old_ = cluster_;
    Result<void> committed = commit_cluster(cluster, area);
    if (!committed) {
        if (const auto restored = restore(); !restored)
            log_debug("the old header could not be put back: " + restored.error().what);
        return committed;
    }
    area_ = TRY(decode_header_area(cluster));
    // What is not there yet are names of features at most (H2).
    const auto [first, end] = differing(cluster_, cluster);
    if (const auto rest = write_sectors(cluster, first, end); !rest)
        log_debug("header, behind its first sector: " + rest.error().what);
    return {};
}

// Up to the one write that commits.
Result<void> ImageHeader::commit_cluster(const Buffer &cluster, const HeaderArea &area)
{
    const auto [first, end] = differing(cluster_, cluster);
    if (first >= end || end - first == 1)
        return write_sectors(cluster, first, end);  // H1
    // H2: does sector 0 stand for itself?
    Buffer mixed = cluster_;
    std::copy_n(cluster.begin(), sector, mixed.begin());
    if (!says_the_same(mixed, area)) {
        // H3.
        mixed = cluster_;
        Header marked = area_.header;
        marked.autoclear_features &= ~autoclear::bitmaps;
        encode_header(marked, mixed);
        TRY(write_sectors(mixed, 0, 1));
        TRY(write_sectors(cluster, 1, cluster.size() / sector));
    }
    return write_sectors(cluster, 0, 1);
}

}  // namespace qcow2
