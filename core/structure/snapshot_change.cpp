// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// How the three operations go, and why their steps stand in this order: the top of
// snapshot_operation.cpp.

#include "core/structure/snapshot_change.h"

#include "core/base/log.h"
#include "core/format/limits.h"
#include "core/structure/copied_bits.h"
#include "core/structure/counts_in_place.h"
#include "core/structure/new_refcounts.h"
#include "core/structure/snapshot_operation.h"

namespace qcow2 {

namespace {

constexpr std::size_t name_bytes_max = 255;

// The extra data that we write: VM state size, disk size, icount (none).
Buffer new_extra_data()
{
    Buffer extra(24);
    store_be64(&extra[16], ~std::uint64_t(0));
    return extra;
}

// As a table has them that others name, too.
std::vector<L1Entry> without_copied(std::vector<L1Entry> l1, std::uint64_t entries)
{
    l1.resize(entries);
    for (L1Entry &entry : l1)
        entry = L1Entry(entry.raw() & ~entry_copied);
    return l1;
}

class CreateSnapshot final : public SnapshotOperation {
public:
    CreateSnapshot(Image &image, const NewSnapshot &wanted, const SwitchCompanion &companion,
                   const BecomeAlone &become_alone)
        : SnapshotOperation(image, become_alone), wanted_(wanted), companion_(companion)
    {
    }

private:
    Result<void> check_wanted() const;
    Snapshot new_record() const;
    Result<void> plan() override;
    Result<void> count(CountChanges &changes) const override
    {
        return shared_->count_names(1, changes);
    }
    Result<void> change_aside(CountChanges &changes) override;
    Result<void> change_in_place(const CountChanges &changes) override;
    Result<HostOffset> write_snapshot(Aside &aside, const std::vector<L1Entry> &l1);
    Result<ImageHeader::Change> prepare_more(Aside &aside) const
    {
        return companion_ ? companion_(aside, image_.disk_size())
                          : ImageHeader::Change([](HeaderArea &) {});
    }

    const NewSnapshot &wanted_;
    const SwitchCompanion &companion_;
    std::optional<Tree> shared_;  // of the disk's tree, what the snapshot is to name
};

Result<void> CreateSnapshot::check_wanted() const
{
    if (wanted_.name.empty() || wanted_.name.size() > name_bytes_max ||
        wanted_.name.find('\0') != std::string::npos)
        return Error(Errc::invalid, "the name of a snapshot has 1 to {} bytes, none of them zero",
                     name_bytes_max);
    if (table_.snapshots.size() >= limits::snapshots_max)
        return Error(Errc::invalid, "an image cannot have more than {} snapshots",
                     limits::snapshots_max);
    return {};
}

// But for the place of its L1 table.
Snapshot CreateSnapshot::new_record() const
{
    Snapshot snapshot;
    snapshot.id = next_snapshot_id(table_);
    snapshot.name = wanted_.name;
    snapshot.date_seconds = wanted_.date_seconds;
    snapshot.date_nanoseconds = wanted_.date_nanoseconds;
    snapshot.disk_size = image_.disk_size();
    snapshot.l1_size = static_cast<std::uint32_t>(shared_->l1().size());
    snapshot.extra_data = new_extra_data();
    return snapshot;
}

Result<void> CreateSnapshot::plan()
{
    TRY(check_wanted());
    TRY(load_active());
    shared_ = active_;
    shared_->cut(geometry_.l1_entries_for(image_.disk_size()));
    snapshots_.push_back(new_record());
    if (encode_snapshot_table(snapshots_).size() > limits::snapshot_table_bytes_max)
        return Error(Errc::invalid, "the snapshot table would be larger than 64 MiB, QEMU's limit");
    return {};
}

// l1: what the snapshot is to name.
Result<HostOffset> CreateSnapshot::write_snapshot(Aside &aside, const std::vector<L1Entry> &l1)
{
    snapshots_.back().l1_table_offset = TRY(
        write_l1(aside, without_copied(l1, shared_->l1().size())).in("L1 table of the snapshot"));
    return write_snapshots(aside);
}

Result<void> CreateSnapshot::change_aside(CountChanges &changes)
{
    Aside aside(image_);
    const std::vector<L1Entry> l1 =
        TRY(CopiedBits(image_, *active_).move_wrong_tables(aside, changes, 1, table_.snapshots));
    const HostOffset table = TRY(write_snapshot(aside, l1));
    const HostOffset l1_place = TRY(move_l1(aside, l1));
    aside.replace(old_snapshot_table());
    const ImageHeader::Change more = TRY(prepare_more(aside));
    return commit_with_counts(
        image_, aside, changes,
        [&](HeaderArea &area) {
            name_snapshots(area.header, table);
            more(area);
            area.header.l1_table_offset = l1_place;
        },
        become_alone_);
}

Result<void> CreateSnapshot::change_in_place(const CountChanges &changes)
{
    Aside aside(image_);
    const HostOffset table = TRY(write_snapshot(aside, active_->l1()));
    aside.replace(old_snapshot_table());
    const ImageHeader::Change more = TRY(prepare_more(aside));
    CopiedBits bits(image_, *active_);
    const auto steps = [&]() -> Result<void> {
        TRY(bits.put_right_in_place(changes));  // W6
        TRY(raise_counts(image_, changes));     // W1
        Result<void> done = aside.commit([&](HeaderArea &area) {
            name_snapshots(area.header, table);
            more(area);
        });
        if (!done && image_.header().certain())
            unraise_counts(image_, changes);
        return done;
    };
    const Result<void> done = steps();
    if (!done)
        bits.undo();
    return done;
}

class DeleteSnapshot final : public SnapshotOperation {
public:
    DeleteSnapshot(Image &image, std::string_view id_or_name, const BecomeAlone &become_alone)
        : SnapshotOperation(image, become_alone), id_or_name_(id_or_name)
    {
    }

private:
    Result<void> plan() override;
    Result<void> count(CountChanges &changes) const override;
    Result<void> change_aside(CountChanges &changes) override;
    Result<void> change_in_place(const CountChanges &changes) override;

    const std::string_view id_or_name_;
    std::optional<Tree> gone_;
};

Result<void> DeleteSnapshot::plan()
{
    const Snapshot &snapshot = *TRY(find_snapshot(table_, id_or_name_));
    TRY(load_active());
    gone_ = TRY(tree_of(snapshot));
    snapshots_.erase(snapshots_.begin() + (&snapshot - table_.snapshots.data()));
    return {};
}

Result<void> DeleteSnapshot::count(CountChanges &changes) const
{
    TRY(gone_->count_names(-1, changes));
    changes.add(gone_->l1_clusters(), -1);
    changes.add(old_snapshot_table(), -1);
    return {};
}

Result<void> DeleteSnapshot::change_aside(CountChanges &changes)
{
    Aside aside(image_);
    const HostOffset table = TRY(write_snapshots(aside));
    const std::vector<L1Entry> l1 =
        TRY(CopiedBits(image_, *active_).move_wrong_tables(aside, changes, 0, snapshots_));
    const HostOffset l1_place = TRY(move_l1(aside, l1));
    return commit_with_counts(
        image_, aside, changes,
        [&](HeaderArea &area) {
            name_snapshots(area.header, table);
            area.header.l1_table_offset = l1_place;
        },
        become_alone_);
}

Result<void> DeleteSnapshot::change_in_place(const CountChanges &changes)
{
    Aside aside(image_);
    const HostOffset table = TRY(write_snapshots(aside));
    TRY(aside.commit([&](HeaderArea &area) { name_snapshots(area.header, table); }));
    lower_counts(image_, changes);  // W3
    Result<void> bits = image_.settle();
    if (bits)
        bits = CopiedBits(image_, *active_).put_right_in_place(CountChanges());  // W6
    if (!bits)
        log_warning("bits 63 of the disk could not be put right: {}", bits.error().what);
    return {};
}

class ApplySnapshot final : public SnapshotOperation {
public:
    ApplySnapshot(Image &image, std::string_view id_or_name, const SwitchCompanion &companion,
                  const BecomeAlone &become_alone)
        : SnapshotOperation(image, become_alone), id_or_name_(id_or_name), companion_(companion)
    {
    }

private:
    Result<void> plan() override;
    Result<void> count(CountChanges &changes) const override;
    Result<void> before() override { return clear_copied_in_place(image_, *chosen_); }
    Result<void> change_aside(CountChanges &changes) override;
    Result<void> change_in_place(const CountChanges &changes) override;
    Result<ImageHeader::Change> prepare(Aside &aside) const;

    const std::string_view id_or_name_;
    const SwitchCompanion &companion_;
    std::uint64_t disk_size_ = 0;
    std::optional<Tree> chosen_;  // without VM state
    std::vector<L1Entry> l1_;     // the snapshot names all of it, too
};

Result<void> ApplySnapshot::plan()
{
    const Snapshot &snapshot = *TRY(find_snapshot(table_, id_or_name_));
    TRY(load_active());
    chosen_ = TRY(tree_of(snapshot));
    disk_size_ = align_down(snapshot.disk_size, limits::sector);
    const std::uint64_t l1_size = geometry_.l1_entries_for(disk_size_);
    chosen_->cut(l1_size);
    l1_ = without_copied(chosen_->l1(), l1_size);
    return {};
}

Result<void> ApplySnapshot::count(CountChanges &changes) const
{
    TRY(chosen_->count_names(1, changes));
    TRY(active_->count_names(-1, changes));
    changes.add(active_->l1_clusters(), -1);
    return {};
}

Result<ImageHeader::Change> ApplySnapshot::prepare(Aside &aside) const
{
    const HostOffset new_l1 = TRY(write_l1(aside, l1_).in("new L1 table"));
    const ImageHeader::Change more = TRY(companion_(aside, disk_size_));
    return ImageHeader::Change([this, new_l1, more](HeaderArea &area) {
        area.header.size = disk_size_;
        area.header.l1_size = static_cast<std::uint32_t>(l1_.size());
        area.header.l1_table_offset = new_l1;
        more(area);
    });
}

Result<void> ApplySnapshot::change_aside(CountChanges &changes)
{
    Aside aside(image_);
    const auto change = TRY(prepare(aside));
    return commit_with_counts(image_, aside, changes, change, become_alone_);
}

Result<void> ApplySnapshot::change_in_place(const CountChanges &changes)
{
    Aside aside(image_);
    const auto change = TRY(prepare(aside));
    TRY(raise_counts(image_, changes));  // W1
    const Result<void> done = aside.commit(change);
    if (done)
        lower_counts(image_, changes);  // W3
    else if (image_.header().certain())
        unraise_counts(image_, changes);
    return done;
}

}  // namespace

Result<void> create_snapshot(Image &image, const NewSnapshot &snapshot,
                             const SwitchCompanion &companion, const BecomeAlone &become_alone)
{
    return CreateSnapshot(image, snapshot, companion, become_alone).run();
}

Result<void> delete_snapshot(Image &image, std::string_view id_or_name,
                             const BecomeAlone &become_alone)
{
    return DeleteSnapshot(image, id_or_name, become_alone).run();
}

Result<void> apply_snapshot(Image &image, std::string_view id_or_name,
                            const SwitchCompanion &companion, const BecomeAlone &become_alone)
{
    return ApplySnapshot(image, id_or_name, companion, become_alone).run();
}

}  // namespace qcow2
