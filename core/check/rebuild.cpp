// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/rebuild.h"

#include "core/base/rare.h"
#include "core/check/header_sector.h"
#include "core/format/refcount_block.h"

namespace qcow2 {

namespace {

Error must_stay()
{
    return Error(Errc::no_space, "tables that lie one over the other cannot be moved");
}

}  // namespace

Result<void> Rebuild::plan()
{
    counts_.take_structure();
    TRY(tree_.find_wrong());
    move_l1_ = tree_.any_wrong();
    if (move_l1_ && !tree_.movable())
        return must_stay();
    // Only L1 entries name these, and they are written anew.
    for (const HostOffset &table : tree_.wrong_l2())
        counts_.take_names(geometry().cluster_of(table).value, walk_.l2_tables().at(table).active);
    if (move_l1_)
        for (std::uint64_t i = 0; i < tree_.l1_clusters(); ++i)
            counts_.take_names(geometry().cluster_of(walk_.header().l1_table_offset).value + i, 1);
    return find_blocks();
}

Result<void> Rebuild::find_blocks()
{
    std::uint64_t last = ~std::uint64_t(0);
    bool too_wide = false;
    TRY(walk_.refcounts().compare(
        walk_.counts(), [&](std::uint64_t cluster, std::uint64_t now, ReferenceCounts::Word) {
            const std::uint64_t index = cluster >> geometry().refcount_block_bits();
            const std::uint64_t count = counts_.of(cluster, now);
            too_wide |= count > geometry().refcount_max();
            if (index != last && count != 0) {
                blocks_.insert(index);
                last = index;
            }
        }));
    for (const HostOffset &table : tree_.wrong_l2())
        too_wide |= walk_.l2_tables().at(table).active > geometry().refcount_max();
    return too_wide ? Result<void>(refcounts_too_narrow(geometry())) : Result<void>();
}

// The blocks that the new clusters need are among them: until that is stable.
Rebuild::Layout Rebuild::layout_at(std::uint64_t first) const
{
    Layout layout;
    layout.first = first;
    layout.l2 = tree_.wrong_l2().size();
    layout.l1 = move_l1_ ? tree_.l1_clusters() : 0;
    for (;;) {
        const Layout before = layout;
        const std::uint64_t from = first >> geometry().refcount_block_bits();
        const std::uint64_t to =
            layout.clusters() == 0 ? from : (layout.end() - 1) >> geometry().refcount_block_bits();
        layout.blocks = blocks_.size();
        for (std::uint64_t index = from; index <= to; ++index)
            layout.blocks += !blocks_.contains(index);
        const std::uint64_t indices = std::max(to, blocks_.empty() ? 0 : *blocks_.rbegin()) + 1;
        layout.table = geometry().clusters_for(indices * 8);
        if (layout.clusters() == before.clusters())
            return layout;
    }
}

Result<void> Rebuild::make_room_behind()
{
    if (!walk_.lost().stays.empty())
        return Error(Errc::no_space, "{}, which must not grow therefore", walk_.lost().stays);
    // What ends a little behind the end of the file has its cluster.
    const std::uint64_t end_of_file = walk_.file_clusters();
    layout_ = layout_at(end_of_file + (walk_.counts().of(end_of_file).count() != 0));
    return store_.grow(offset_of(layout_.end()).value);
}

Result<void> Rebuild::place()
{
    const Result<void> grown = make_room_behind();
    if (!grown) {
        if (grown.error().code != Errc::no_space)
            return grown;
        const auto inside = TRY(place_inside());
        if (!inside)
            return grown;
        RARE("the new refcounts find room inside the file");
        layout_ = *inside;
    }
    if (layout_.table << geometry().cluster_bits > limits::refcount_table_bytes_max)
        return Error(Errc::no_space, "the refcount table would be longer than 8 MiB, QEMU's limit");

    std::uint64_t at = layout_.first;
    for (const HostOffset &table : tree_.wrong_l2()) {
        counts_.give(at, walk_.l2_tables().at(table).active);
        moved_[table] = offset_of(at++);
    }
    for (; at < layout_.end(); ++at)
        counts_.give(at, 1);
    const std::uint64_t end = (layout_.end() - 1) >> geometry().refcount_block_bits();
    for (std::uint64_t index = layout_.first >> geometry().refcount_block_bits(); index <= end;
         ++index)
        blocks_.insert(index);
    return {};
}

// A run of clusters of the file that have neither a refcount nor a name.
Result<std::optional<Rebuild::Layout>> Rebuild::place_inside()
{
    const std::uint64_t end = store_.size() >> geometry().cluster_bits;
    std::uint64_t first = 0;
    for (std::uint64_t cluster = 0; cluster < end; ++cluster) {
        if (walk_.counts().of(cluster).count() != 0 || TRY(walk_.refcounts().of(cluster)) != 0) {
            first = cluster + 1;
            continue;
        }
        const Layout layout = layout_at(first);
        if (layout.end() <= cluster + 1)
            return std::optional(layout);
    }
    return std::optional<Layout>();
}

Result<void> Rebuild::write()
{
    TRY(write_tree().in("tables of the disk, anew"));
    TRY(write_refcounts().in("refcounts, anew"));
    TRY(store_.flush());
    return change_header(store_, [&](Header &header) {
        if (move_l1_)
            header.l1_table_offset = offset_of(layout_.l1_at());
        header.refcount_table_offset = offset_of(layout_.table_at());
        header.refcount_table_clusters = static_cast<std::uint32_t>(layout_.table);
    });
}

Result<void> Rebuild::write_tree()
{
    if (!move_l1_)
        return {};
    for (const auto &[from, to] : moved_)
        TRY(store_.write(to.value, TRY(tree_.right_l2(from))));
    return store_.write(offset_of(layout_.l1_at()).value, TRY(tree_.right_l1(moved_)));
}

Result<void> Rebuild::write_refcounts()
{
    const std::uint64_t entries = geometry().refcount_block_entries();
    Buffer table(layout_.table << geometry().cluster_bits);
    std::uint64_t at = layout_.blocks_at();
    for (const std::uint64_t index : blocks_) {
        Buffer block(geometry().cluster_size());
        for (std::uint64_t i = 0; i < entries; ++i) {
            const std::uint64_t count = TRY(counts_.of(index * entries + i));
            if (count != 0)
                store_refcount(block, geometry().refcount_order, i, count);
        }
        TRY(store_.write(offset_of(at).value, block));
        store_be64(&table[index * 8], offset_of(at).value);
        ++at;
    }
    INVARIANT(at == layout_.table_at());
    return store_.write(offset_of(at).value, table);
}

}  // namespace qcow2
