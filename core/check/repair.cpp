// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/repair.h"

#include <optional>
#include <vector>

#include "core/base/log.h"
#include "core/check/active_tree.h"
#include "core/check/header_sector.h"
#include "core/check/lost_names.h"
#include "core/check/rebuild.h"
#include "core/check/sectors.h"

namespace qcow2 {

namespace {

template <std::size_t count>
bool has_any(const CheckReport &report, const Finding (&findings)[count])
{
    return std::ranges::any_of(findings, [&](Finding f) { return report.count_of(f) != 0; });
}

// After these there may be names that nobody has seen.
bool follows_everything(const CheckReport &report)
{
    constexpr Finding findings[] = {
        Finding::l1_table_past_end,
        Finding::l2_table_past_end,
        Finding::snapshot_table_past_end,
        Finding::snapshot_l1_wrong,
        Finding::bitmap_directory_size_wrong,
        Finding::bitmap_directory_past_end,
        Finding::bitmap_directory_entry_truncated,
        Finding::bitmap_table_unaligned,
        Finding::bitmap_table_missing,
        Finding::bitmap_table_past_end,
        Finding::bitmap_table_size_wrong,
        Finding::bitmap_table_entry_reserved_bits,
        Finding::bitmap_table_entry_unaligned,
    };
    return !has_any(report, findings);
}

// Without these no write can overwrite what is in use.
bool refcounts_can_be_trusted(const CheckReport &report)
{
    constexpr Finding findings[] = {
        Finding::refcount_table_past_end,  Finding::refcount_table_entry_reserved_bits,
        Finding::refcount_block_unaligned, Finding::refcount_block_past_end,
        Finding::refcount_too_low,         Finding::copied_flag_wrong,
        Finding::tables_overlap,           Finding::data_cluster_is_metadata,
    };
    return !has_any(report, findings);
}

class Repair {
public:
    Repair(ByteStore &store, RepairKind kind) : store_(store), kind_(kind), walk_(store) {}

    Result<RepairReport> run();

private:
    const Geometry &geometry() const { return walk_.geometry(); }

    Result<void> put_right(const CheckReport &before);
    Result<void> begin_writing();
    Result<void> put_lost_names_away();
    Result<void> clear_in_shared();
    Result<void> make_room(Rebuild &anew);
    Result<void> look();
    bool structure_is_sound() const;
    Result<void> in_place();
    Result<bool> write_counts(bool up);
    Result<bool> write_block(std::uint64_t index, bool up);
    Result<void> flush_if(bool written);
    void give_back();
    Result<void> clear_bits();

    ByteStore &store_;
    const RepairKind kind_;
    ImageWalk walk_;
    RepairReport report_;
    std::optional<RightCounts> counts_;
    std::optional<ActiveTree> tree_;

    // What look() has seen.
    bool differs_ = false;         // a refcount, in a block that may be written
    bool blocks_missing_ = false;  // one that no block can
    bool too_wide_ = false;
    std::vector<HostRun> unused_;  // with a refcount and without a name

    bool lost_names_are_away_ = false;
};

Result<RepairReport> Repair::run()
{
    TRY(walk_.run());
    TRY(compare_refcounts(walk_));
    report_.before = walk_.findings().report();
    report_.after = report_.before;
    if (store_.read_only())
        return Error(Errc::read_only, "the image cannot be written");
    if (!report_.before.sound()) {
        TRY(put_right(report_.before));
        if (report_.changed)
            report_.after = TRY(check(store_));
    }
    TRY(clear_bits());
    return std::move(report_);
}

Result<void> Repair::put_right(const CheckReport &before)
{
    const bool all_followed = follows_everything(before);
    if (kind_ == RepairKind::all)
        TRY(put_lost_names_away());
    counts_.emplace(walk_, kind_, all_followed);
    tree_.emplace(store_, walk_, *counts_, kind_);
    if (kind_ == RepairKind::all && !structure_is_sound())
        counts_->take_structure();
    if (kind_ == RepairKind::leaks)
        counts_->keep_outside_of_sound_blocks();
    TRY(tree_->keep_what_is_not_apart());
    TRY(look());
    TRY(tree_->find_wrong());
    TRY(clear_in_shared());
    const bool sound = structure_is_sound() && !(kind_ == RepairKind::all && blocks_missing_);
    const bool rebuild =
        kind_ == RepairKind::all ? !sound || tree_->any_wrong() : sound && tree_->any_wrong();
    if (!differs_ && !rebuild)
        return {};

    Rebuild anew(store_, walk_, *counts_, *tree_);
    Result<void> planned;
    if (rebuild)
        planned = anew.plan();
    if (rebuild && planned)
        planned = make_room(anew);
    if (rebuild && planned) {
        TRY(begin_writing());
        TRY(anew.write());
    } else {
        if (!planned && (planned.error().code != Errc::no_space || !sound))
            return planned;
        if (!planned) {
            log_debug("repair in place: {}", planned.error().what);
            counts_->forget_moves();
            TRY(tree_->find_wrong());
        }
        if (too_wide_)
            return refcounts_too_narrow(geometry());
        TRY(begin_writing());
        TRY(in_place());
    }
    if (all_followed)
        give_back();
    return {};
}

Result<void> Repair::begin_writing()
{
    if (report_.changed)
        return {};
    report_.changed = true;
    TRY(store_.flush().in("flush before the first write"));  // O1
    if (!(walk_.header().autoclear_features & ~autoclear::known))
        return {};
    return change_header(
        store_, [](Header &header) { header.autoclear_features &= autoclear::known; });  // H4
}

Result<void> Repair::put_lost_names_away()
{
    if (lost_names_are_away_ || !walk_.lost().can_be_put_away())
        return {};
    TRY(begin_writing());
    TRY(put_lost_names_out_of_reach(store_, walk_));
    lost_names_are_away_ = true;
    return {};
}

// W6: bits that go before counts that rise.
Result<void> Repair::clear_in_shared()
{
    const std::vector<HostOffset> tables = tree_->wrong_and_shared();
    if (kind_ != RepairKind::all || tables.empty())
        return {};
    TRY(begin_writing());
    TRY(tree_->clear_in_place(tables));
    TRY(store_.flush());
    return tree_->find_wrong();
}

Result<void> Repair::make_room(Rebuild &anew)
{
    TRY(put_lost_names_away());
    TRY(anew.place());
    return {};
}

Result<void> Repair::look()
{
    return walk_.refcounts().compare(
        walk_.counts(), [&](std::uint64_t cluster, std::uint64_t now, ReferenceCounts::Word used) {
            const std::uint64_t then = counts_->of(cluster, now);
            too_wide_ |= then > geometry().refcount_max();
            const std::uint64_t index = cluster >> geometry().refcount_block_bits();
            const bool has_block = walk_.refcounts().has_block(index);
            blocks_missing_ |= !has_block && then != 0;
            differs_ |= has_block && then != now &&
                        walk_.block_is_sound(HostOffset(walk_.refcounts().blocks()[index]));
            if (used.count() != 0 || now == 0)
                return;
            if (!unused_.empty() && unused_.back().end() == HostCluster(cluster))
                ++unused_.back().count;
            else
                unused_.push_back({HostCluster(cluster), 1});
        });
}

bool Repair::structure_is_sound() const
{
    constexpr Finding findings[] = {
        Finding::refcount_table_past_end,
        Finding::refcount_table_entry_reserved_bits,
        Finding::refcount_block_unaligned,
        Finding::refcount_block_past_end,
    };
    return !has_any(report_.before, findings) &&
           std::ranges::all_of(walk_.refcount_clusters(), [&](std::uint64_t cluster) {
               return walk_.block_is_sound(geometry().offset_of(HostCluster(cluster)));
           });
}

Result<void> Repair::in_place()
{
    if (kind_ == RepairKind::all) {
        TRY(flush_if(TRY(tree_->write_in_place(ActiveTree::Which::cleared))));  // W6
        TRY(flush_if(TRY(write_counts(true))));                                 // W1
    }
    TRY(flush_if(TRY(write_counts(false))));
    return flush_if(TRY(tree_->write_in_place(ActiveTree::Which::all)));  // W6
}

Result<void> Repair::flush_if(bool written) { return written ? store_.flush() : Result<void>(); }

Result<bool> Repair::write_counts(bool up)
{
    bool written = false;
    const std::vector<std::uint64_t> &blocks = walk_.refcounts().blocks();
    for (std::uint64_t index = 0; index < blocks.size(); ++index)
        if (blocks[index] != 0 && walk_.block_is_sound(HostOffset(blocks[index])))
            written |= TRY(write_block(index, up));
    return written;
}

Result<bool> Repair::write_block(std::uint64_t index, bool up)
{
    const std::uint64_t offset = walk_.refcounts().blocks()[index];
    const std::uint64_t first = index << geometry().refcount_block_bits();
    // What ends a little behind the end of the file is counted, too.
    const std::uint64_t end =
        std::min(first + geometry().refcount_block_entries(), walk_.file_clusters() + 1);
    if (first >= end)
        return false;
    Buffer now(geometry().cluster_size());
    TRY(store_.read(offset, now));
    Buffer then = now;
    for (std::uint64_t cluster = first; cluster < end; ++cluster) {
        const std::uint64_t count = load_refcount(now, geometry().refcount_order, cluster - first);
        const std::uint64_t right = cluster < walk_.file_clusters() || counts_->names(cluster) != 0
                                        ? counts_->of(cluster, count)
                                        : count;
        if (up ? right > count : right < count)
            store_refcount(then, geometry().refcount_order, cluster - first, right);
    }
    return write_differing_sectors(store_, offset, now, then);
}

// W3: what they counted is gone, durably.
void Repair::give_back()
{
    for (const HostRun &run : unused_) {
        const std::uint64_t offset = geometry().offset_of(run.first).value;
        const std::uint64_t end = std::min(geometry().offset_of(run.end()).value, store_.size());
        if (const auto done = store_.discard(offset, end - offset); !done)
            log_debug("discard: {}", done.error().what);
    }
}

Result<void> Repair::clear_bits()
{
    const std::uint64_t features = walk_.header().incompatible_features;
    std::uint64_t gone = 0;
    if (refcounts_can_be_trusted(report_.after))
        gone |= incompatible::dirty;
    if (report_.after.leaks_at_worst())
        gone |= incompatible::corrupt;
    if (!(features & gone))
        return {};
    TRY(begin_writing());
    return change_header(store_, [&](Header &header) { header.incompatible_features &= ~gone; });
}

}  // namespace

Result<RepairReport> repair(ByteStore &store, RepairKind kind) { return Repair(store, kind).run(); }

Result<bool> needs_repair(ByteStore &store)
{
    Buffer bytes(std::min<std::uint64_t>(store.size(), sizeof(on_disk::Header)));
    TRY(store.read(0, bytes).in("header"));
    const Header header = TRY(decode_header(bytes).in("header"));
    return (header.incompatible_features & (incompatible::dirty | incompatible::corrupt)) ==
           incompatible::dirty;
}

}  // namespace qcow2
