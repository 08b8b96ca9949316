// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/image.h"

#include <algorithm>
#include <utility>

#include "core/base/log.h"
#include "core/base/notice.h"
#include "core/base/rare.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

// One part in eight for refcount blocks, which are read in order.
std::uint64_t refcount_share(std::uint64_t cache_bytes) { return cache_bytes / 8; }

}  // namespace

Image::Image(ByteStore &store, std::optional<NamedFile> data_file, HeaderArea area,
             Buffer beginning, const State &state, std::uint64_t cache_bytes)
    : store_(store, area.header.geometry().cluster_size()),
      data_file_(std::move(data_file)),
      data_store_(data_file_ ? std::make_unique<GuardedStore>(*data_file_->store) : nullptr),
      header_(store_, area, std::move(beginning)),
      geometry_(area.header.geometry()),
      disk_size_(state.disk_size),
      allocator_(store_, header_, metadata_, refcount_share(cache_bytes)),
      mapping_(store_, header_, metadata_, allocator_, cache_bytes - refcount_share(cache_bytes)),
      data_(store_, clusters_of_guest(), mapping_, area.header, disk_size_)
{
}

std::unique_ptr<GuestClusters> Image::clusters_of_guest()
{
    if (data_store_)
        return std::make_unique<DataFileClusters>(*data_store_, geometry_, disk_size_);
    return std::make_unique<CountedClusters>(store_, allocator_, geometry_.cluster_size());
}

Result<std::unique_ptr<Image>> Image::open(ByteStore &store, Beginning beginning, ImageFiles files,
                                           const ImageOptions &options)
{
    const State state = TRY(find_state(store, beginning.area.header, options));
    std::unique_ptr<Image> image(new Image(store, std::move(files.data_file), beginning.area,
                                           std::move(beginning.bytes), state, options.cache_bytes));
    image->data_.set_backing(std::move(files.backing));
    if (options.keep_clusters)
        image->data_.keep_clusters();
    TRY(image->open_tables(state, options));
    return image;
}

ImageFiles Image::release_files()
{
    return {data_.release_backing(), std::exchange(data_file_, std::nullopt)};
}

Result<Image::State> Image::find_state(ByteStore &store, const Header &header,
                                       const ImageOptions &options)
{
    if (!options.snapshot)
        return State{header.disk_size(), header.l1_table_offset, header.l1_size, {}};
    const SnapshotTable table = TRY(load_snapshots(store, header));
    const Snapshot &snapshot = *TRY(find_snapshot(table, *options.snapshot));
    TRY(check_snapshot(snapshot, header.geometry()));
    return State{
        align_down(snapshot.disk_size, limits::sector), snapshot.l1_table_offset, snapshot.l1_size,
        Error(Errc::read_only, "{} is served, which does not change", words_for(snapshot))};
}

// What reading needs must be right; what only writing needs forbids writing.
Result<void> Image::open_tables(const State &state, const ImageOptions &options)
{
    const Header header = header_.header();
    const std::uint64_t l1_clusters = geometry_.clusters_for(std::uint64_t(header.l1_size) * 8);
    bool apart = metadata_.add({HostCluster(0), 1});
    apart &= metadata_.add({geometry_.cluster_of(header.l1_table_offset), l1_clusters});
    apart &= metadata_.add(
        {geometry_.cluster_of(header.refcount_table_offset), header.refcount_table_clusters});

    const bool dirty = header.incompatible_features & incompatible::dirty;
    Result<void> writable = allocator_.open();
    if (!writable && dirty && options.repaired_first)
        writable = {};
    if (writable) {
        const auto behind = allocator_.counts_behind_end();
        counts_behind_end_ = behind && *behind;
        if (!behind)
            writable = behind.error();
    }
    if (writable)
        writable = note_snapshots(header, !options.read_only);
    TRY(mapping_.open(state.l1_table_offset, state.l1_size));
    if (writable && !apart)
        writable = finding(Finding::tables_overlap, "header, L1 table, refcount table");
    if (!writable)
        why_read_only_ = std::move(writable).error();
    if (data_store_ && data_store_->read_only())
        why_read_only_ = Error(Errc::read_only, "{} cannot be written", data_file_->path);
    if (mapping_.why_read_only() && !why_read_only_)
        why_read_only_ = mapping_.why_read_only();
    if (header.incompatible_features & incompatible::corrupt)
        why_read_only_ = finding(Finding::corrupt_bit_set);
    if (dirty && !options.repaired_first)
        why_read_only_ = finding(Finding::dirty_bit_set);
    if (state.why_read_only)
        why_read_only_ = state.why_read_only;
    return {};
}

// Where snapshots keep their records, L1 and L2 tables, if these can be. (What
// lies under these is counted, and bit 63 keeps us from it.)
Result<void> Image::note_snapshots(const Header &header, bool with_l2_tables)
{
    if (header.nb_snapshots == 0)
        return {};
    const SnapshotTable table = TRY(load_snapshots(store_, header));
    if (!metadata_.add({geometry_.cluster_of(header.snapshots_offset),
                        geometry_.clusters_for(table.encoded_size)}))
        return finding(Finding::tables_overlap, "snapshot table at {:#x}",
                       header.snapshots_offset.value);
    const auto all = [&](auto note) -> Result<void> {
        for (const Snapshot &snapshot : table.snapshots)
            if (has_l1_table(snapshot, store_))
                TRY(note(snapshot).in("{}, L1 table at {:#x}", words_for(snapshot),
                                      snapshot.l1_table_offset.value));
        return {};
    };
    TRY(all([&](const Snapshot &snapshot) { return note_l1_table(snapshot); }));
    TableBuffer buffer;
    return with_l2_tables
               ? all([&](const Snapshot &snapshot) { return note_l2_tables(snapshot, buffer); })
               : Result<void>();
}

Result<void> Image::note_l1_table(const Snapshot &snapshot)
{
    const std::uint64_t bytes = std::uint64_t(snapshot.l1_size) * 8;
    return metadata_.add(
               {geometry_.cluster_of(snapshot.l1_table_offset), geometry_.clusters_for(bytes)})
               ? Result<void>()
               : finding(Finding::tables_overlap);
}

// An entry that is wrong, as nobody writes by it, is left to who uses the snapshot.
Result<void> Image::note_l2_tables(const Snapshot &snapshot, TableBuffer &buffer)
{
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const L1Entry entry(raw);
        const HostOffset table = entry.l2_table();
        if (!entry.present() || !geometry_.is_aligned(table) || table.value >= store_.size() ||
            metadata_.add_snapshot_l2_table(geometry_.cluster_of(table)))
            return {};
        return finding(Finding::tables_overlap, "entry {}, L2 table at {:#x}", i, table.value);
    };
    return for_each_entry(store_, buffer, snapshot.l1_table_offset.value, snapshot.l1_size, 8,
                          visit);
}

Result<void> Image::clear_unknown_bits()
{
    if (header_.header().incompatible_features & incompatible::dirty)
        return finding(Finding::dirty_bit_set);
    if (!(header_.header().autoclear_features & ~autoclear::known))
        return {};
    return header_.commit([](HeaderArea &area) {
        area.header.autoclear_features &= autoclear::known;  // H4
    });
}

Result<void> Image::begin_writing()
{
    TRY(clear_unknown_bits());
    mapping_.put_lost_names_out_of_reach();
    const std::uint64_t l1_entries = geometry_.l1_entries_for(disk_size_);
    if (mapping_.l1_entries() < l1_entries)
        TRY(mapping_.grow_l1(l1_entries));
    return {};
}

Result<void> Image::state()
{
    if (corrupt_)
        return finding(Finding::corrupt_bit_set);
    TRY(store_.state());
    return data_store_ ? data_store_->state() : Result<void>();
}

std::optional<Error> Image::first_cause()
{
    const auto cause = store_.first_cause();
    return cause || !data_store_ ? cause : data_store_->first_cause();
}

// no_space may be cured by a flush, which frees released clusters: then it is tried once
// more. A change that meets metadata where the guest's bytes should go is the last one.
template <class Operation>
Result<void> Image::change(Operation operation)
{
    TRY(state());  // also for what changes nothing but tables in memory
    Result<void> result = operation();
    // (If the file was not to grow before that, it may now.)
    if (!result && (store_.growth_is_held() ||
                    (result.error().code == Errc::no_space && mapping_.has_released()))) {
        RARE("a flush makes room, and the change is tried again");
        TRY(flush());
        result = operation();
    }
    if (!result && mapping_.met_metadata())
        mark_corrupt(result.error());
    if (result && mapping_.wants_write_back())
        TRY(flush());
    return result;
}

void Image::mark_corrupt(const Error &cause)
{
    corrupt_ = true;
    if (corrupt_marked_.exchange(true))
        return;
    log_warning("the disk is not written any more: {}", cause.what);
    notify({Notice::Kind::image_corrupted, "", cause.what});
    if (geometry_.version < 3)
        return;  // has no bit for it
    const auto marked = header_.commit(
        [](HeaderArea &area) { area.header.incompatible_features |= incompatible::corrupt; });
    if (!marked)
        log_warning("the corrupt bit could not be set: {}", marked.error().what);
}

Result<void> Image::write(GuestOffset offset, Bytes bytes)
{
    return change([&] { return data_.write(offset, bytes); });
}

Result<bool> Image::overwrite(GuestOffset offset, Bytes bytes)
{
    TRY(state());
    Result<bool> done = data_.overwrite(offset, bytes);
    if (!done && mapping_.met_metadata())
        mark_corrupt(done.error());
    return done;
}

Result<void> Image::zero(Range range, bool may_unmap)
{
    return change([&] { return data_.zero(range, may_unmap); });
}

Result<void> Image::trim(Range range)
{
    return change([&] { return data_.trim(range); });
}

Result<void> Image::place_write(Range range)
{
    return change([&] { return data_.place_write(range); });
}

Result<void> Image::place_zero(Range range, bool may_unmap)
{
    return change([&] { return data_.place_zero(range, may_unmap); });
}

Result<void> Image::place_trim(Range range)
{
    return change([&] { return data_.place_trim(range); });
}

}  // namespace qcow2
