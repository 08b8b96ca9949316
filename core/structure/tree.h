// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Tree: an L1 table, that of the disk or of a snapshot, and the L2 tables that
// it names, read from the file as wholes. For structural changes, which follow
// every name; what they find wrong ends them before anything is written.
//
// One thread, on an image that is settled.

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/format/l2_table.h"
#include "core/image/image.h"
#include "core/structure/count_changes.h"

namespace qcow2 {

class Tree {
public:
    // Reads the L1 table and checks its entries. name: for messages.
    static Result<Tree> load(Image &image, HostOffset l1_table_offset, std::uint32_t l1_size,
                             std::string name);

    // Entries from there on are not looked at: the tree is that of a smaller disk.
    void cut(std::uint64_t l1_entries);

    const std::vector<L1Entry> &l1() const { return l1_; }
    // The clusters of the L1 table in the file.
    HostRun l1_clusters() const { return l1_clusters_; }

    // Calls visit(index, table) for each L2 table, until that fails.
    using Visit = std::function<Result<void>(std::size_t, L2Table &)>;
    Result<void> for_each_table(const Visit &visit) const;

    // Adds `by` for every name: each L2 table, and each cluster that these name.
    // corrupt: a cluster that is metadata is named as the guest's.
    Result<void> count_names(std::int64_t by, CountChanges &changes) const;

private:
    Tree(Image &image, std::string name) : image_(&image), name_(std::move(name)) {}

    Image *image_;
    std::string name_;
    std::vector<L1Entry> l1_;
    HostRun l1_clusters_;
};

}  // namespace qcow2
