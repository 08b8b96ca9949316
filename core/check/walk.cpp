// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/walk.h"

#include "core/base/covered.h"
#include "core/base/log.h"
#include "core/format/cluster_mapping.h"
#include "core/format/header_reader.h"
#include "core/format/snapshot_table.h"
#include "core/format/table_entry.h"

namespace qcow2 {

namespace {

constexpr std::string_view named_by_header =
    "the header names what lies behind the end of the file";

}  // namespace

Result<void> ImageWalk::run()
{
    TRY(load_header());
    TRY(walk_refcount_structure());
    TRY(walk_active_l1());
    TRY(walk_snapshots());
    TRY(walk_l2_tables());
    TRY(walk_bitmaps());
    keep_lost_names_in_other_things();
    return {};
}

Result<void> ImageWalk::load_header()
{
    Buffer bytes = TRY(read_beginning(store_));
    area_ = TRY(read_header_area(store_, bytes));
    const Header &h = area_.header;
    geometry_ = h.geometry();
    refcounts_.open(store_, geometry_, file_size_);

    counts_.add(0, 1, Use::sole);
    if (h.incompatible_features & incompatible::dirty)
        findings_.note("the image was not closed cleanly (dirty bit)");
    if (h.incompatible_features & incompatible::corrupt)
        findings_.note("the image is marked as corrupt");
    if (h.l1_size < geometry_.l1_entries_for(h.disk_size()))
        findings_.add(Finding::l1_table_too_small, formatted("{} entries", h.l1_size));
    const Extension *luks = area_.find(ExtensionType::luks);
    if (luks && luks->data.size() == 16)
        count({Place::Kind::header, {}}, HostOffset(load_be64(luks->data.data())),
              load_be64(luks->data.data() + 8), Use::sole, Finding::data_cluster_past_end,
              [] { return std::string("the LUKS header"); });
    return {};
}

Result<void> ImageWalk::walk_refcount_structure()
{
    const std::uint64_t bytes = std::uint64_t(header().refcount_table_clusters)
                                << geometry_.cluster_bits;
    const Place named_here{Place::Kind::refcounts, {}};
    if (!count_table(named_here, header().refcount_table_offset, bytes, Use::sole,
                     Finding::refcount_table_past_end,
                     [&] { return hex(header().refcount_table_offset.value); }))
        return {};
    table_clusters_ = header().refcount_table_clusters;
    for (std::uint64_t i = 0; i < table_clusters_; ++i)
        refcount_clusters_.push_back(
            (header().refcount_table_offset.value >> geometry_.cluster_bits) + i);
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto where = [&] { return formatted("refcount table entry {}: {:#x}", i, raw); };
        const HostOffset offset(raw & ~refcount_table_entry_reserved);
        if (!geometry_.is_aligned(offset)) {
            findings_.add_lazily(Finding::refcount_block_unaligned, where);
            return {};
        }
        // Its refcounts are believed, but it does not count as named.
        const bool reserved = raw & refcount_table_entry_reserved;
        if (reserved)
            findings_.add_lazily(Finding::refcount_table_entry_reserved_bits, where);
        if (offset.value == 0)
            return {};
        if (offset.value >= file_size_) {
            findings_.add_lazily(Finding::refcount_block_past_end, where);
            return {};
        }
        if (!reserved) {
            count(named_here, offset, geometry_.cluster_size(), Use::sole,
                  Finding::refcount_block_past_end, where);
            refcount_clusters_.push_back(offset.value >> geometry_.cluster_bits);
        }
        refcounts_.add_block(i, offset.value);
        return {};
    };
    return for_each_entry(store_, table_buffer_, header().refcount_table_offset.value, bytes / 8, 8,
                          visit);
}

Result<void> ImageWalk::walk_snapshots()
{
    if (header().nb_snapshots == 0)
        return {};
    const std::uint64_t offset = header().snapshots_offset.value;
    const std::uint64_t available = store_.size() - std::min(store_.size(), offset);
    // A cluster that the file ends in goes on with zeros.
    const std::uint64_t bytes_max =
        std::min(align_up(available, geometry_.cluster_size()), limits::snapshot_table_bytes_max);

    // Its length is known when it has been decoded: begin with little.
    Result<SnapshotTable> table = SnapshotTable{};
    for (std::uint64_t bytes = std::min<std::uint64_t>(bytes_max, 64 << 10);;
         bytes = std::min(bytes_max, bytes * 8)) {
        Buffer buffer(bytes);
        TRY(store_.read(offset, buffer));
        table =
            decode_snapshot_table(buffer, header().nb_snapshots, header().disk_size(), geometry_);
        if (table || bytes == bytes_max)
            break;
    }
    if (!table) {
        findings_.add(Finding::snapshot_table_past_end, table.error().what);
        lost_.stays = named_by_header;
        return {};
    }
    count({Place::Kind::header, {}}, header().snapshots_offset, table->encoded_size, Use::sole,
          Finding::snapshot_table_past_end, [&] { return hex(offset); });
    const auto words_for_l1 = [](std::size_t i) {
        return formatted("the L1 table of snapshot {}", i);
    };
    HostOffset record = header().snapshots_offset;
    Tables tables;
    for (std::size_t i = 0; i < table->snapshots.size(); ++i) {
        const Snapshot &s = table->snapshots[i];
        const Place place{Place::Kind::word, record};  // the offset of the L1 table comes first
        record += align_up(
            sizeof(on_disk::SnapshotEntry) + s.extra_data.size() + s.id.size() + s.name.size(), 8);
        const auto where = [&] {
            return formatted("{} at {:#x}", words_for_l1(i), s.l1_table_offset.value);
        };
        const std::uint64_t bytes = std::uint64_t(s.l1_size) * 8;
        if (s.finding)
            findings_.add_lazily(*s.finding, where);
        if (s.finding == Finding::snapshot_l1_wrong)
            continue;
        if (is_there(s.l1_table_offset, bytes))
            tables.add(i, s.l1_table_offset, bytes);
        else
            lost(place, s.l1_table_offset, Finding::snapshot_l1_wrong, where);
    }
    return for_each_part(tables, [&](const TablePart &part) {
        return walk_l1(part, false, words_for_l1(part.owner));
    });
}

Result<void> ImageWalk::for_each_part(const Tables &tables,
                                      const std::function<Result<void>(const TablePart &)> &follow)
{
    std::vector<Range> clusters;
    for (const Range &bytes : tables.bytes)
        clusters.push_back(bytes.touched(geometry_.cluster_size()));
    for (const Covered &part : covered(clusters))
        counts_.add_run(part.range.begin, part.range.length(), part.times, Use::sole);
    for (const Covered &part : covered(tables.bytes))
        TRY(follow({HostOffset(part.range.begin), part.range.length() / 8,
                    tables.owners[part.first],
                    (part.range.begin - tables.bytes[part.first].begin) / 8, part.times}));
    return {};
}

Result<void> ImageWalk::walk_active_l1()
{
    const HostOffset offset = header().l1_table_offset;
    const std::string name = "the L1 table";
    if (!count_table({Place::Kind::header, {}}, offset, std::uint64_t(header().l1_size) * 8,
                     Use::sole, Finding::l1_table_past_end,
                     [&] { return formatted("{} at {:#x}", name, offset.value); }))
        return {};
    return walk_l1({offset, header().l1_size, 0, 0, 1}, true, name);
}

Result<void> ImageWalk::walk_l1(const TablePart &part, bool active, const std::string &name)
{
    const auto visit = [&](std::uint64_t at, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const std::uint64_t i = part.index + at;
        const auto where = [&] { return formatted("{}, entry {}: {:#x}", name, i, raw); };
        if (raw & l1_entry_reserved)
            findings_.add_lazily(Finding::l1_entry_reserved_bits, where);
        const L1Entry entry(raw);
        if (!entry.present()) {
            if (entry.copied())
                findings_.add_lazily(Finding::copied_flag_wrong, where);
            return {};
        }
        if (!geometry_.is_aligned(entry.l2_table()))
            findings_.add_lazily(Finding::l1_entry_unaligned, where);
        const Place place{Place::Kind::word, part.offset + at * 8};
        if (count_table(place, entry.l2_table(), geometry_.cluster_size(), Use::l2_table,
                        Finding::l2_table_past_end, where, part.times)) {
            if (active)
                TRY(check_copied(entry.l2_table(), entry.copied(), "L1 entry", i));
            Named &named = l2_tables_[entry.l2_table()];
            // Trees may share tables, but none has two parts in one.
            if (active && named.active != 0)
                findings_.add_lazily(Finding::tables_overlap, where);
            if (named.times == 0)
                named.l1_index = i;
            named.times += part.times;
            named.active += active;
        }
        return {};
    };
    return for_each_entry(store_, table_buffer_, part.offset.value, part.entries, 8, visit);
}

Result<void> ImageWalk::walk_l2_tables()
{
    const auto found = [this] {
        return findings_.report().corruptions -
               findings_.report().count_of(Finding::copied_flag_wrong);
    };
    for (auto &[table, named] : l2_tables_) {
        const std::uint64_t before = found();
        TRY(walk_l2(table, named));
        named.bad_entries = found() != before;
    }
    return {};
}

Result<void> ImageWalk::walk_l2(HostOffset table, const Named &named)
{
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t second) {
        return check_l2_entry({table, i, raw, second}, named);
    };
    return for_each_entry(store_, table_buffer_, table.value, geometry_.l2_entries(),
                          geometry_.l2_entry_bytes(), visit);
}

std::string ImageWalk::L2Place::words() const
{
    return formatted("L2 table at {:#x}, entry {}: {:#x}", table.value, index, raw);
}

Result<void> ImageWalk::check_l2_entry(const L2Place &entry, const Named &named)
{
    if (entry.raw & l2_entry_compressed) {
        check_compressed(entry, named.times);
        return {};
    }
    const auto where = [&] { return entry.words(); };
    const HostOffset host(entry.raw & entry_offset_mask);
    const bool copied = entry.raw & entry_copied;
    if (entry.raw & l2_entry_reserved)
        findings_.add_lazily(Finding::l2_entry_reserved_bits, where);
    if ((entry.raw & l2_entry_zero) && geometry_.version < 3)
        findings_.add_lazily(Finding::l2_entry_zero_flag_in_v2, where);
    // Of a subcluster's two bits one at most; allocated ones need a cluster, which
    // may be the first one of a data file.
    const bool absent = host.value == 0 && !(has_data_file() && copied);
    const std::uint32_t allocated = static_cast<std::uint32_t>(entry.second);
    if ((allocated & entry.second >> 32) != 0 || (absent && allocated != 0))
        findings_.add_lazily(Finding::l2_subclusters_wrong, where);
    // (A zero cluster at offset 0 has none.)
    const GuestOffset guest =
        geometry_.offset_of(GuestCluster(named.l1_index * geometry_.l2_entries() + entry.index));
    const bool zero = (entry.raw & l2_entry_zero) && !geometry_.extended_l2;
    if (has_data_file() && !absent && host.value != guest.value && (host.value != 0 || !zero))
        findings_.add_lazily(Finding::data_file_offset_wrong, where);
    if (host.value == 0)
        return {};
    if (!geometry_.is_aligned(host))
        findings_.add_lazily(Finding::l2_entry_unaligned, where);
    // Nobody counts those clusters, and nobody shares them.
    if (has_data_file() && !copied)
        findings_.add_lazily(Finding::copied_flag_wrong, where);
    if (has_data_file())
        return {};
    const bool there = count({Place::Kind::l2_entry, entry.table}, host, geometry_.cluster_size(),
                             Use::guest, Finding::data_cluster_past_end, where, named.times);
    if (there && named.active)
        TRY(check_copied(host, copied, "L2 entry", entry.index));
    return {};
}

void ImageWalk::check_compressed(const L2Place &entry, std::uint64_t times)
{
    const auto where = [&] { return entry.words(); };
    if (entry.raw & entry_copied)
        findings_.add_lazily(Finding::l2_entry_compressed_copied, where);
    if (entry.second != 0)
        findings_.add_lazily(Finding::l2_subclusters_wrong, where);
    const auto mapping = decode_l2_entry(entry.raw & ~entry_copied, geometry_);
    if (!mapping || has_data_file()) {
        findings_.add_lazily(Finding::l2_entry_reserved_bits, where);
        return;
    }
    const auto &compressed = std::get<Compressed>(*mapping);
    count({Place::Kind::compressed, entry.table}, compressed.host, compressed.bytes_max, Use::guest,
          Finding::data_cluster_past_end, where, times);
}

void ImageWalk::note_lost(Place place, std::string words)
{
    switch (place.kind) {
    case Place::Kind::refcounts: return;
    case Place::Kind::header: lost_.stays = named_by_header; break;
    case Place::Kind::word: lost_.words.push_back(place.offset); break;
    case Place::Kind::l2_entry:
    case Place::Kind::compressed: lost_.l2_tables.insert(place.offset); break;
    }
    if (++lost_.count == 1)
        lost_.first = std::move(words);
}

bool ImageWalk::is_apart(HostOffset offset, std::uint64_t bytes) const
{
    const Range clusters = Range::of(offset.value, bytes).touched(geometry_.cluster_size());
    for (std::uint64_t cluster = clusters.begin; cluster < clusters.end; ++cluster)
        if (!counts_.of(cluster).well_used())
            return false;
    return true;
}

// Where two things lie in one cluster it is not known which of them a word belongs
// to: what looks like a lost name may be a bitmap's.
void ImageWalk::keep_lost_names_in_other_things()
{
    const auto stays = [&](std::string_view what, HostOffset at, std::uint64_t bytes) {
        if (is_apart(at, bytes))
            return false;
        if (lost_.stays.empty())
            lost_.stays =
                formatted("{} at {:#x}, in a cluster that is something else, too, names what lies "
                          "behind the end of the file",
                          what, at.value);
        return true;
    };
    std::erase_if(lost_.l2_tables, [&](HostOffset table) {
        return stays("the L2 table", table, geometry_.cluster_size());
    });
    std::erase_if(lost_.words, [&](HostOffset word) { return stays("the word", word, 8); });
}

// As check_l2_entry() has found it.
bool ImageWalk::is_lost_l2_entry(std::uint64_t raw) const
{
    const bool compressed = raw & l2_entry_compressed;
    HostOffset host(raw & entry_offset_mask);
    std::uint64_t bytes = geometry_.cluster_size();
    if (has_data_file())
        return false;
    if (compressed) {
        const auto mapping = decode_l2_entry(raw & ~entry_copied, geometry_);
        if (!mapping)
            return false;
        host = std::get<Compressed>(*mapping).host;
        bytes = std::get<Compressed>(*mapping).bytes_max;
    }
    return host.value != 0 && !is_inside(host, bytes) &&
           host < out_of_reach_from(compressed, geometry_);
}

Result<void> ImageWalk::check_copied(HostOffset cluster, bool copied, std::string_view what,
                                     std::uint64_t index)
{
    const std::uint64_t n = TRY(refcounts_.of(cluster.value >> geometry_.cluster_bits));
    if (copied != (n == 1))
        findings_.add_lazily(Finding::copied_flag_wrong, [&] {
            return formatted("{} {}, cluster at {:#x}: bit 63 is {:d}, refcount {}", what, index,
                             cluster.value, copied, n);
        });
    return {};
}

}  // namespace qcow2
