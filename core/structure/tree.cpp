// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/tree.h"

#include <algorithm>
#include <unordered_set>

#include "core/format/findings.h"

namespace qcow2 {

Result<Tree> Tree::load(Image &image, HostOffset offset, std::uint32_t l1_size, std::string name)
{
    const Geometry &geometry = image.geometry();
    Tree tree(image, std::move(name));
    const std::uint64_t bytes = std::uint64_t(l1_size) * 8;
    const std::string where = formatted("{}, L1 table at {:#x}", tree.name_, offset.value);
    if (!fits(offset.value, bytes, image.store().size()))
        return finding(Finding::snapshot_l1_wrong, where);
    Buffer raw(bytes);
    TRY(image.store().read(offset.value, raw).in(where));
    tree.l1_clusters_ = {geometry.cluster_of(offset), geometry.clusters_for(bytes)};
    std::unordered_set<HostOffset> tables;
    for (std::size_t i = 0; i < l1_size; ++i) {
        const std::string entry = formatted("{}, entry {}", where, i);
        const L1Entry l1 = TRY(decode_l1_entry(load_be64(&raw[i * 8]), geometry).in(entry));
        if (l1.present() &&
            !fits(l1.l2_table().value, geometry.cluster_size(), image.store().size()))
            return finding(Finding::l2_table_past_end, "{}: {:#x}", entry, l1.l2_table().value);
        if (l1.present() && !tables.insert(l1.l2_table()).second)
            return finding(Finding::tables_overlap, "{}: {:#x}", entry, l1.l2_table().value);
        tree.l1_.push_back(l1);
    }
    return tree;
}

void Tree::cut(std::uint64_t l1_entries)
{
    l1_.resize(std::min<std::uint64_t>(l1_.size(), l1_entries));
}

Result<void> Tree::for_each_table(const Visit &visit) const
{
    L2Table table(image_->geometry());
    for (std::size_t i = 0; i < l1_.size(); ++i) {
        if (!l1_[i].present())
            continue;
        const std::string where =
            formatted("{}, L2 table at {:#x}", name_, l1_[i].l2_table().value);
        TRY(image_->store().read(l1_[i].l2_table().value, table.bytes()).in(where));
        TRY(visit(i, table).in(where));
    }
    return {};
}

Result<void> Tree::count_names(std::int64_t by, CountChanges &changes) const
{
    const Geometry &geometry = image_->geometry();
    return for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        changes.add({geometry.cluster_of(l1_[index].l2_table()), 1}, by);
        for (std::uint64_t i = 0; i < table.entries(); ++i) {
            const auto mapping = table.get(i);
            if (!mapping)
                return Error(mapping.error()).in("entry {}", i);
            const HostRun run = named_clusters(*mapping, geometry);
            if (run.count == 0)
                continue;
            if (image_->metadata().overlaps(run))
                return finding(Finding::data_cluster_is_metadata, "entry {}: {:#x}", i,
                               geometry.offset_of(run.first).value);
            changes.add(run, by);
        }
        return {};
    });
}

}  // namespace qcow2
