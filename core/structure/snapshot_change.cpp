// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/snapshot_change.h"

#include <algorithm>
#include <deque>
#include <unordered_set>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"
#include "core/image/snapshots.h"
#include "core/structure/new_refcounts.h"
#include "core/structure/tree.h"

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

// Clusters whose change is at least so large, in runs.
std::deque<HostRun> runs_of(const CountChanges &changes, bool up, std::int64_t at_least)
{
    std::deque<HostRun> runs;
    const auto visit = [&](HostCluster cluster, std::int64_t change) -> Result<void> {
        if ((up ? change : -change) < at_least)
            return {};
        if (!runs.empty() && runs.back().end() == cluster)
            ++runs.back().count;
        else
            runs.push_back({cluster, 1});
        return {};
    };
    INVARIANT(changes.for_each(visit).has_value());
    return runs;
}

Buffer bytes_of(const std::vector<L1Entry> &l1)
{
    Buffer bytes(l1.size() * 8);
    for (std::size_t i = 0; i < l1.size(); ++i)
        store_be64(&bytes[i * 8], l1[i].raw());
    return bytes;
}

// What the operations have in common.
class SnapshotChange {
public:
    explicit SnapshotChange(Image &image) : image_(image), geometry_(image.geometry()) {}

    Result<void> begin();
    Result<void> create(const NewSnapshot &wanted, const SwitchCompanion &companion);
    Result<void> remove(std::string_view id_or_name);
    Result<void> apply(std::string_view id_or_name, const SwitchCompanion &companion);

private:
    ByteStore &store() { return image_.store(); }
    Header header() const { return image_.header().header(); }
    HostRun clusters_of(HostOffset offset, std::uint64_t bytes) const
    {
        return {geometry_.cluster_of(offset), geometry_.clusters_for(bytes)};
    }
    HostRun old_snapshot_table() const { return clusters_of(header().snapshots_offset, table_.encoded_size); }

    Result<Tree> active_tree();
    Result<Tree> tree_of(const Snapshot &snapshot, const Tree &active);

    // Aside, and in place if there is no room for that.
    template <class AsideWay, class InPlaceWay>
    Result<void> do_it(AsideWay aside_way, InPlaceWay in_place_way);

    Result<HostOffset> write_l1(Aside &aside, const std::vector<L1Entry> &l1);
    Result<HostOffset> write_snapshots(Aside &aside, const std::vector<Snapshot> &snapshots);

    // Bit 63 of the active tree by the counts that come.
    struct Righted {
        bool set = false, cleared = false;
        bool any() const { return set || cleared; }
    };
    Result<std::uint64_t> count_to_come(HostOffset host, const CountChanges &changes);
    Result<bool> wanted_copied(HostOffset host, const CountChanges &changes);
    Result<Righted> put_right(L2Table &table, const CountChanges &changes);
    Result<std::vector<std::size_t>> wrong_tables(const Tree &active, const CountChanges &changes,
                                                  std::int64_t names_more);
    Result<std::vector<L1Entry>> move_wrong_tables(Aside &aside, const Tree &active, CountChanges &changes,
                                                   std::int64_t names_more);
    Result<void> put_right_in_place(const Tree &active, const CountChanges &changes);
    void undo_bits(const Tree &active);
    Result<void> clear_copied_in_place(const Tree &snapshot);

    Result<void> raise(const CountChanges &changes);
    void unraise(const CountChanges &changes);
    void lower(const CountChanges &changes);
    Result<void> switch_counts(Aside &aside, CountChanges &changes, const ImageHeader::Change &change);

    Image &image_;
    const Geometry geometry_;
    SnapshotTable table_;
};

Result<void> SnapshotChange::begin()
{
    if (geometry_.data_file)
        return Error(Errc::unsupported,
                     "an image with an external data file cannot have internal snapshots");
    table_ = TRY(load_snapshots(store(), header()));
    return {};
}

Result<Tree> SnapshotChange::active_tree()
{
    const Header h = header();
    return Tree::load(image_, h.l1_table_offset, h.l1_size, "the disk");
}

// No table of the snapshot lies where other metadata is.
Result<Tree> SnapshotChange::tree_of(const Snapshot &snapshot, const Tree &active)
{
    TRY(check_snapshot(snapshot, geometry_));
    Tree tree = TRY(Tree::load(image_, snapshot.l1_table_offset, snapshot.l1_size, words_for(snapshot)));
    if (!tree.l1().empty() && tree.l1_clusters().first < active.l1_clusters().end() &&
        active.l1_clusters().first < tree.l1_clusters().end())
        return finding(Finding::tables_overlap, words_for(snapshot) + ", L1 table at " +
                                                    hex(snapshot.l1_table_offset.value) + ": it is the disk's");
    std::unordered_set<HostOffset> shared;
    for (const L1Entry &l1 : active.l1())
        shared.insert(l1.l2_table());
    for (const L1Entry &l1 : tree.l1())
        if (l1.present() && !shared.contains(l1.l2_table()) &&
            image_.metadata().overlaps_own({geometry_.cluster_of(l1.l2_table()), 1}))
            return finding(Finding::tables_overlap,
                           words_for(snapshot) + ", L2 table at " + hex(l1.l2_table().value));
    return tree;
}

template <class AsideWay, class InPlaceWay>
Result<void> SnapshotChange::do_it(AsideWay aside_way, InPlaceWay in_place_way)
{
    const Result<void> done = aside_way();
    if (done || done.error().code != Errc::no_space)
        return done;
    log_debug("in place: " + done.error().what);
    // What was taken aside is room again.
    TRY(image_.allocator().settle());
    return in_place_way();
}

Result<HostOffset> SnapshotChange::write_l1(Aside &aside, const std::vector<L1Entry> &l1)
{
    return l1.empty() ? Result<HostOffset>(HostOffset()) : aside.write(bytes_of(l1));
}

Result<HostOffset> SnapshotChange::write_snapshots(Aside &aside, const std::vector<Snapshot> &snapshots)
{
    return snapshots.empty() ? Result<HostOffset>(HostOffset())
                             : aside.write(encode_snapshot_table(snapshots)).in("new snapshot table");
}

// --- Bit 63.

Result<std::uint64_t> SnapshotChange::count_to_come(HostOffset host, const CountChanges &changes)
{
    const HostCluster cluster = geometry_.cluster_of(host);
    return TRY(image_.allocator().refcount(cluster)) + static_cast<std::uint64_t>(changes.of(cluster));
}

Result<bool> SnapshotChange::wanted_copied(HostOffset host, const CountChanges &changes)
{
    return TRY(count_to_come(host, changes)) == 1;
}

Result<SnapshotChange::Righted> SnapshotChange::put_right(L2Table &table, const CountChanges &changes)
{
    Righted righted;
    for (std::uint64_t i = 0; i < table.entries(); ++i) {
        const HostOffset host = host_cluster(TRY(table.get(i)));
        if (host.value == 0)
            continue;
        std::uint8_t *word = &table.bytes()[i * geometry_.l2_entry_bytes()];
        const std::uint64_t raw = load_be64(word);
        const std::uint64_t right =
            TRY(wanted_copied(host, changes)) ? raw | entry_copied : raw & ~entry_copied;
        store_be64(word, right);
        righted.set |= (right & ~raw) != 0;
        righted.cleared |= (raw & ~right) != 0;
    }
    return righted;
}

// Those that go, and the new ones have `names_more` names besides the active one. Where a count
// says that others name a table, too, bits that could be set stay clear: the next writer copies.
// (It may be too high: the power went in the middle of a change in place.)
Result<std::vector<std::size_t>> SnapshotChange::wrong_tables(const Tree &active, const CountChanges &changes,
                                                              std::int64_t names_more)
{
    std::vector<std::size_t> wrong;
    TRY(active.for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        const Righted righted = TRY(put_right(table, changes));
        if (!righted.any())
            return {};
        const std::uint64_t names = TRY(count_to_come(active.l1()[index].l2_table(), changes));
        if (names == 1 + static_cast<std::uint64_t>(names_more))
            wrong.push_back(index);
        else if (righted.cleared)
            return finding(Finding::copied_flag_wrong, "the table is shared");
        return {};
    }));
    return wrong;
}

// The active L1 table as it is to be, with the L2 tables whose bits change
// written aside.
Result<std::vector<L1Entry>> SnapshotChange::move_wrong_tables(Aside &aside, const Tree &active,
                                                               CountChanges &changes,
                                                               std::int64_t names_more)
{
    const std::vector<std::size_t> wrong = TRY(wrong_tables(active, changes, names_more));
    const std::vector<HostOffset> places = TRY(take_scattered(image_, aside, wrong.size()));
    std::vector<L1Entry> l1;
    for (const L1Entry &entry : active.l1())
        l1.push_back(entry.present() ? L1Entry::of(entry.l2_table(), TRY(wanted_copied(entry.l2_table(), changes)))
                                     : entry);
    std::size_t next = 0;
    std::vector<std::pair<HostCluster, std::int64_t>> moved;
    TRY(active.for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        if (next == wrong.size() || wrong[next] != index)
            return {};
        const HostCluster old = geometry_.cluster_of(active.l1()[index].l2_table());
        TRY(put_right(table, changes));
        TRY(store().write(places[next].value, table.bytes()));
        l1[index] = L1Entry::of(places[next], names_more == 0);
        moved.emplace_back(old, -(1 + names_more));
        moved.emplace_back(geometry_.cluster_of(places[next]), names_more);
        ++next;
        return {};
    }));
    for (const auto &move : moved)
        changes.add({move.first, 1}, move.second);
    return l1;
}

// W6, in the tables where they are. L1 entries go by the same rule.
Result<void> SnapshotChange::put_right_in_place(const Tree &active, const CountChanges &changes)
{
    std::vector<L1Entry> l1 = active.l1();
    TRY(active.for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        const HostOffset place = l1[index].l2_table();
        if (TRY(put_right(table, changes)).any())
            TRY(store().write(place.value, table.bytes()));
        l1[index] = L1Entry::of(place, TRY(wanted_copied(place, changes)));
        return {};
    }));
    if (l1 != active.l1())
        TRY(store().write(geometry_.offset_of(active.l1_clusters().first).value, bytes_of(l1)));
    return store().flush();
}

// Bits 63 under an inactive L1 table mean nothing, and may be any; before it
// becomes the active one they go.
Result<void> SnapshotChange::clear_copied_in_place(const Tree &snapshot)
{
    bool written = false;
    TRY(snapshot.for_each_table([&](std::size_t index, L2Table &table) -> Result<void> {
        const L2Table before = table;
        for (std::uint64_t i = 0; i < table.entries(); ++i)
            table.clear_copied(i);
        if (table == before)
            return {};
        const HostOffset place = snapshot.l1()[index].l2_table();
        if (image_.metadata().overlaps_own({geometry_.cluster_of(place), 1}))
            return finding(Finding::copied_flag_wrong, "the disk uses the table, too");
        written = true;
        return store().write(place.value, table.bytes());
    }));
    return written ? store().flush() : Result<void>();
}

// After a failure: the counts are what they were. What the mapping has in memory
// is what the file says, or nothing is written any more.
void SnapshotChange::undo_bits(const Tree &active)
{
    Result<void> undone = image_.settle();
    if (undone && image_.header().certain())
        undone = put_right_in_place(active, CountChanges());
    if (!undone)
        log_debug("bits 63 could not be put back: " + undone.error().what);
    if (const auto loaded = image_.reload_tables(); !loaded)
        image_.store().fail(loaded.error());
}

// --- Counts.

Result<void> SnapshotChange::switch_counts(Aside &aside, CountChanges &changes,
                                           const ImageHeader::Change &change)
{
    for (const HostRun &run : aside.take_replaced())
        changes.add(run, -1);
    NewRefcounts counts(image_, aside, changes);
    TRY(counts.prepare());
    TRY(aside.commit([&](HeaderArea &area) {
        change(area);
        counts.apply(area.header);
    }));
    counts.give_back();
    return {};
}

// All or nothing; durable (W1).
Result<void> SnapshotChange::raise(const CountChanges &changes)
{
    for (std::int64_t n = 1;; ++n) {
        const std::deque<HostRun> runs = runs_of(changes, true, n);
        if (runs.empty())
            return {};
        Result<void> raised = image_.allocator().raise(runs);
        if (raised)
            continue;
        while (--n > 0)
            for (const HostRun &run : runs_of(changes, true, n))
                image_.allocator().lower(run);
        return raised;
    }
}

void SnapshotChange::unraise(const CountChanges &changes)
{
    for (std::int64_t n = 1; !runs_of(changes, true, n).empty(); ++n)
        for (const HostRun &run : runs_of(changes, true, n))
            image_.allocator().lower(run);
}

void SnapshotChange::lower(const CountChanges &changes)
{
    for (std::int64_t n = 1;; ++n) {
        const std::deque<HostRun> runs = runs_of(changes, false, n);
        if (runs.empty())
            return;
        for (const HostRun &run : runs)
            image_.give_back(run);
    }
}

// --- Create.

Result<void> SnapshotChange::create(const NewSnapshot &wanted, const SwitchCompanion &companion)
{
    if (wanted.name.empty() || wanted.name.size() > name_bytes_max ||
        wanted.name.find('\0') != std::string::npos)
        return Error(Errc::invalid, "the name of a snapshot has 1 to " + std::to_string(name_bytes_max) +
                                        " bytes, none of them zero");
    if (table_.snapshots.size() >= limits::snapshots_max)
        return Error(Errc::invalid, "an image cannot have more than " +
                                        std::to_string(limits::snapshots_max) + " snapshots");
    const Tree active = TRY(active_tree());
    Tree shared = active;
    shared.cut(geometry_.l1_entries_for(image_.disk_size()));

    Snapshot snapshot;
    snapshot.id = next_snapshot_id(table_);
    snapshot.name = wanted.name;
    snapshot.date_seconds = wanted.date_seconds;
    snapshot.date_nanoseconds = wanted.date_nanoseconds;
    snapshot.disk_size = image_.disk_size();
    snapshot.l1_size = static_cast<std::uint32_t>(shared.l1().size());
    snapshot.extra_data = new_extra_data();
    std::vector<Snapshot> snapshots = table_.snapshots;
    snapshots.push_back(snapshot);
    if (encode_snapshot_table(snapshots).size() > limits::snapshot_table_bytes_max)
        return Error(Errc::invalid, "the snapshot table would be larger than 64 MiB, QEMU's limit");

    CountChanges changes;
    TRY(shared.count_names(1, changes));
    TRY(check_counts(image_, changes));

    // l1: what the snapshot is to name.
    const auto write_snapshot = [&](Aside &aside, std::vector<L1Entry> l1) -> Result<HostOffset> {
        l1.resize(shared.l1().size());
        for (L1Entry &entry : l1)
            entry = L1Entry(entry.raw() & ~entry_copied);
        snapshots.back().l1_table_offset = TRY(write_l1(aside, l1).in("L1 table of the snapshot"));
        return write_snapshots(aside, snapshots);
    };
    const auto name_it = [&](Header &header, HostOffset table) {
        header.nb_snapshots = static_cast<std::uint32_t>(snapshots.size());
        header.snapshots_offset = table;
    };
    const auto prepare_more = [&](Aside &aside) -> Result<ImageHeader::Change> {
        return companion ? companion(aside, image_.disk_size()) : ImageHeader::Change([](HeaderArea &) {});
    };
    const auto aside_way = [&]() -> Result<void> {
        Aside aside(image_);
        const std::vector<L1Entry> l1 = TRY(move_wrong_tables(aside, active, changes, 1));
        const HostOffset table = TRY(write_snapshot(aside, l1));
        const bool l1_changes = l1 != active.l1();
        const HostOffset new_l1 = l1_changes ? TRY(write_l1(aside, l1).in("new L1 table")) : HostOffset();
        if (l1_changes)
            aside.replace(active.l1_clusters());
        aside.replace(old_snapshot_table());
        const ImageHeader::Change more = TRY(prepare_more(aside));
        return switch_counts(aside, changes, [&](HeaderArea &area) {
            name_it(area.header, table);
            more(area);
            if (l1_changes)
                area.header.l1_table_offset = new_l1;
        });
    };
    const auto in_place = [&]() -> Result<void> {
        CountChanges names;
        TRY(shared.count_names(1, names));
        Aside aside(image_);
        const HostOffset table = TRY(write_snapshot(aside, active.l1()));
        aside.replace(old_snapshot_table());
        const ImageHeader::Change more = TRY(prepare_more(aside));
        const auto steps = [&]() -> Result<void> {
            TRY(put_right_in_place(active, names));  // W6
            TRY(raise(names));                       // W1
            Result<void> done = aside.commit([&](HeaderArea &area) {
                name_it(area.header, table);
                more(area);
            });
            if (!done && image_.header().certain())
                unraise(names);
            return done;
        };
        const Result<void> done = steps();
        if (!done)
            undo_bits(active);
        return done;
    };
    return do_it(aside_way, in_place);
}

// --- Delete.

Result<void> SnapshotChange::remove(std::string_view id_or_name)
{
    const Snapshot &snapshot = *TRY(find_snapshot(table_, id_or_name));
    const Tree active = TRY(active_tree());
    const Tree gone = TRY(tree_of(snapshot, active));
    std::vector<Snapshot> snapshots = table_.snapshots;
    snapshots.erase(snapshots.begin() + (&snapshot - table_.snapshots.data()));
    const auto count = [&](CountChanges &changes) -> Result<void> {
        TRY(gone.count_names(-1, changes));
        changes.add(gone.l1_clusters(), -1);
        changes.add(old_snapshot_table(), -1);
        return {};
    };
    const auto name_it = [&](Header &header, HostOffset table) {
        header.nb_snapshots = static_cast<std::uint32_t>(snapshots.size());
        header.snapshots_offset = table;
    };
    CountChanges changes;
    TRY(count(changes));
    TRY(check_counts(image_, changes));

    const auto aside_way = [&]() -> Result<void> {
        Aside aside(image_);
        const HostOffset table = TRY(write_snapshots(aside, snapshots));
        const std::vector<L1Entry> l1 = TRY(move_wrong_tables(aside, active, changes, 0));
        const bool l1_changes = l1 != active.l1();
        const HostOffset new_l1 = l1_changes ? TRY(write_l1(aside, l1).in("new L1 table")) : HostOffset();
        if (l1_changes)
            aside.replace(active.l1_clusters());
        return switch_counts(aside, changes, [&](HeaderArea &area) {
            name_it(area.header, table);
            if (l1_changes)
                area.header.l1_table_offset = new_l1;
        });
    };
    const auto in_place = [&]() -> Result<void> {
        CountChanges names;
        TRY(count(names));
        Aside aside(image_);
        const HostOffset table = TRY(write_snapshots(aside, snapshots));
        TRY(aside.commit([&](HeaderArea &area) { name_it(area.header, table); }));
        lower(names);  // W3
        Result<void> bits = image_.settle();
        if (bits)
            bits = put_right_in_place(active, CountChanges());  // W6
        if (!bits)
            log_warning("bits 63 of the disk could not be put right: " + bits.error().what);
        return {};
    };
    return do_it(aside_way, in_place);
}

// --- Apply.

Result<void> SnapshotChange::apply(std::string_view id_or_name, const SwitchCompanion &companion)
{
    const Snapshot &snapshot = *TRY(find_snapshot(table_, id_or_name));
    const Tree active = TRY(active_tree());
    Tree chosen = TRY(tree_of(snapshot, active));
    const std::uint64_t disk_size = align_down(snapshot.disk_size, limits::sector);
    const std::uint64_t l1_size = geometry_.l1_entries_for(disk_size);
    chosen.cut(l1_size);  // without VM state
    std::vector<L1Entry> l1 = chosen.l1();
    l1.resize(l1_size);
    for (L1Entry &entry : l1)
        entry = L1Entry(entry.raw() & ~entry_copied);  // the snapshot names all of it, too

    const auto count = [&](CountChanges &changes) -> Result<void> {
        TRY(chosen.count_names(1, changes));
        TRY(active.count_names(-1, changes));
        changes.add(active.l1_clusters(), -1);
        return {};
    };
    CountChanges changes;
    TRY(count(changes));
    TRY(check_counts(image_, changes));
    TRY(clear_copied_in_place(chosen));

    const auto prepare = [&](Aside &aside) -> Result<ImageHeader::Change> {
        const HostOffset new_l1 = TRY(write_l1(aside, l1).in("new L1 table"));
        const ImageHeader::Change more = TRY(companion(aside, disk_size));
        return ImageHeader::Change([=](HeaderArea &area) {
            area.header.size = disk_size;
            area.header.l1_size = static_cast<std::uint32_t>(l1_size);
            area.header.l1_table_offset = new_l1;
            more(area);
        });
    };
    const auto aside_way = [&]() -> Result<void> {
        Aside aside(image_);
        const auto change = TRY(prepare(aside));
        return switch_counts(aside, changes, change);
    };
    const auto in_place = [&]() -> Result<void> {
        CountChanges counts;
        TRY(count(counts));
        Aside aside(image_);
        const auto change = TRY(prepare(aside));
        TRY(raise(counts));  // W1
        const Result<void> done = aside.commit(change);
        if (done)
            lower(counts);  // W3
        else if (image_.header().certain())
            unraise(counts);
        return done;
    };
    return do_it(aside_way, in_place);
}

}  // namespace

Result<void> create_snapshot(Image &image, const NewSnapshot &snapshot, const SwitchCompanion &companion)
{
    SnapshotChange change(image);
    TRY(change.begin());
    return change.create(snapshot, companion);
}

Result<void> delete_snapshot(Image &image, std::string_view id_or_name)
{
    SnapshotChange change(image);
    TRY(change.begin());
    return change.remove(id_or_name);
}

Result<void> apply_snapshot(Image &image, std::string_view id_or_name,
                            const SwitchCompanion &companion)
{
    SnapshotChange change(image);
    TRY(change.begin());
    return change.apply(id_or_name, companion);
}

}  // namespace qcow2
