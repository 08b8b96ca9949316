// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/check.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <unordered_map>

#include "core/base/log.h"
#include "core/check/reference_counts.h"
#include "core/format/bitmap_directory.h"
#include "core/format/bitmap_table.h"
#include "core/format/cluster_mapping.h"
#include "core/format/extensions.h"
#include "core/format/limits.h"
#include "core/format/refcount_block.h"
#include "core/format/snapshot_table.h"
#include "core/format/table_entry.h"

namespace qcow2 {

namespace {

// Tables are read in pieces of this many bytes.
constexpr std::uint64_t piece_bytes = 64 << 10;

std::string number(std::uint64_t n) { return std::to_string(n); }

// Calls visit(index, raw, second) for each entry of a table that is not zero.
// Entries have one word, or two (extended L2); without a second one it is 0.
template <class Visit>
Result<void> for_each_entry(ByteStore &store, Buffer &buffer, std::uint64_t offset,
                           std::uint64_t entries, std::size_t entry_bytes, Visit visit)
{
    const std::uint64_t bytes = entries * entry_bytes;
    for (std::uint64_t at = 0; at < bytes;) {
        const std::uint64_t n = std::min(bytes - at, piece_bytes);
        if (offset + at >= store.size())
            return {};  // zeros
        buffer.resize(std::max<std::size_t>(buffer.size(), n));
        const MutableBytes piece = sub(MutableBytes(buffer), 0, n);
        TRY(store.read(offset + at, piece));
        for (std::uint64_t i = 0; i < n; i += entry_bytes) {
            // Tables are mostly empty: a line of the cache at a time.
            while (i % 64 == 0 && n - i >= 64 && all_zero(sub(Bytes(piece), i, 64)))
                i += 64;
            if (i == n)
                break;
            const std::uint64_t raw = load_be64(&piece[i]);
            const std::uint64_t second = entry_bytes == 16 ? load_be64(&piece[i + 8]) : 0;
            if (raw != 0 || second != 0)
                TRY(visit((at + i) / entry_bytes, raw, second));
        }
        at += n;
    }
    return {};
}

class Checker {
public:
    explicit Checker(ByteStore &store)
        // In whole sectors: what a reader of sectors sees.
        : store_(store), file_size_(align_up(store.size(), limits::sector))
    {
    }

    Result<CheckReport> run()
    {
        TRY(load_header());
        TRY(walk_refcount_structure());
        TRY(walk_l1(header().l1_table_offset, header().l1_size, true, "the L1 table"));
        TRY(walk_snapshots());
        TRY(walk_l2_tables());
        TRY(walk_bitmaps());
        TRY(compare());
        return std::move(report_);
    }

private:
    const Header &header() const { return area_.header; }
    bool has_data_file() const
    {
        return header().incompatible_features & incompatible::external_data_file;
    }

    void add(Finding finding, std::string place, std::uint64_t count = 1)
    {
        add_lazily(finding, [&] { return std::move(place); }, count);
    }

    // For what may happen often: the place is only put into words if it is kept.
    template <class Words>
    void add_lazily(Finding finding, Words words, std::uint64_t count = 1)
    {
        (finding == Finding::refcount_too_high ? report_.leaks : report_.corruptions) += count;
        std::size_t &kept = kept_[static_cast<std::size_t>(finding)];
        if (kept == CheckReport::findings_max)
            return;
        ++kept;
        report_.findings.push_back({finding, words(), count});
    }

    // Counts names for each cluster of a range. False, and a finding, if the
    // range lies outside the file. It may end inside the cluster that the file
    // ends in, or (as with QEMU) a little into the next.
    template <class Words>
    bool count(HostOffset offset, std::uint64_t bytes, Use use, Finding past_end, Words words,
               std::uint64_t times = 1)
    {
        if (bytes == 0)
            return true;
        std::uint64_t end;
        if (__builtin_add_overflow(offset.value, bytes, &end) ||
            (end > file_size_ && end - file_size_ >= geometry_.cluster_size())) {
            add_lazily(past_end, words);
            return false;
        }
        const std::uint64_t last = (end - 1) >> geometry_.cluster_bits;
        for (std::uint64_t c = offset.value >> geometry_.cluster_bits; c <= last; ++c)
            counts_.add(c, times, use);
        return true;
    }

    Result<void> load_header();
    Result<void> walk_refcount_structure();
    Result<void> walk_snapshots();
    Result<void> walk_l1(HostOffset offset, std::uint32_t l1_size, bool active,
                         const std::string &name);
    Result<void> walk_l2_tables();
    Result<void> walk_l2(HostOffset table, std::uint64_t times, bool active);
    struct L2Place {
        HostOffset table;
        std::uint64_t index;
        std::uint64_t raw;
        std::uint64_t second;  // of an extended entry

        std::string words() const;
    };
    Result<void> check_l2_entry(const L2Place &entry, std::uint64_t times, bool active);
    void check_compressed(const L2Place &entry, std::uint64_t times);
    Result<void> check_copied(HostOffset cluster, bool copied, std::string_view what,
                              std::uint64_t index);
    Result<void> walk_bitmaps();
    Result<void> walk_bitmap(const BitmapDirectoryEntry &entry);
    void check_padding(Bytes directory, const std::vector<BitmapDirectoryEntry> &entries);

    Result<Bytes> block(std::uint64_t index);
    Result<std::uint64_t> refcount(std::uint64_t cluster);
    Result<void> compare();
    void compare_one(std::uint64_t cluster, std::uint64_t refcount, ReferenceCounts::Word used);
    void end_run();

    ByteStore &store_;
    const std::uint64_t file_size_;  // bytes
    HeaderArea area_;
    Geometry geometry_;
    CheckReport report_;
    std::array<std::size_t, finding_kinds> kept_{};  // how many of each are in the report
    ReferenceCounts counts_;

    std::vector<std::uint64_t> blocks_;  // offsets of refcount blocks, 0: none
    std::unordered_map<std::uint64_t, Buffer> block_cache_;
    std::uint64_t last_block_ = 0;
    Bytes last_block_bytes_;

    // L2 tables, each once: how often it is named, and whether by the active
    // L1 table.
    struct Named {
        std::uint64_t times = 0;
        bool active = false;
    };
    std::map<HostOffset, Named> l2_tables_;

    Buffer l1_buffer_;
    Buffer l2_buffer_;

    // Clusters side by side with the same difference are one finding.
    struct Run {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
        std::uint64_t refcount = 0;
        std::uint32_t used = 0;
    } run_;
};

Result<void> Checker::load_header()
{
    Buffer cluster(std::min<std::uint64_t>(store_.size(), sizeof(on_disk::Header)));
    TRY(store_.read(0, cluster));
    const Header h = TRY(decode_header(cluster));
    cluster.resize(std::min(store_.size(), h.geometry().cluster_size()));
    TRY(store_.read(0, cluster));
    area_ = TRY(decode_header_area(cluster));
    geometry_ = area_.header.geometry();

    counts_.add(0, 1, Use::sole);
    if (h.l1_size < geometry_.l1_entries_for(h.disk_size()))
        add(Finding::l1_table_too_small, number(h.l1_size) + " entries");
    const Extension *luks = area_.find(ExtensionType::luks);
    if (luks && luks->data.size() == 16)
        count(HostOffset(load_be64(luks->data.data())), load_be64(luks->data.data() + 8), Use::sole,
              Finding::data_cluster_past_end, [] { return std::string("the LUKS header"); });
    return {};
}

Result<void> Checker::walk_refcount_structure()
{
    const std::uint64_t bytes = std::uint64_t(header().refcount_table_clusters)
                                << geometry_.cluster_bits;
    if (!count(header().refcount_table_offset, bytes, Use::sole, Finding::refcount_table_past_end,
               [&] { return hex(header().refcount_table_offset.value); }))
        return {};
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto where = [&] { return "refcount table entry " + number(i) + ": " + hex(raw); };
        const HostOffset offset(raw & ~refcount_table_entry_reserved);
        if (!geometry_.is_aligned(offset)) {
            add_lazily(Finding::refcount_block_unaligned, where);
            return {};
        }
        // Its refcounts are believed, but it does not count as named.
        const bool reserved = raw & refcount_table_entry_reserved;
        if (reserved)
            add_lazily(Finding::refcount_table_entry_reserved_bits, where);
        if (offset.value == 0)
            return {};
        if (offset.value >= file_size_) {
            add_lazily(Finding::refcount_block_past_end, where);
            return {};
        }
        if (!reserved)
            count(offset, geometry_.cluster_size(), Use::sole, Finding::refcount_block_past_end, where);
        blocks_.resize(std::max<std::size_t>(blocks_.size(), i + 1));
        blocks_[i] = offset.value;
        return {};
    };
    return for_each_entry(store_, l1_buffer_, header().refcount_table_offset.value, bytes / 8, 8,
                         visit);
}

Result<void> Checker::walk_snapshots()
{
    if (header().nb_snapshots == 0)
        return {};
    const std::uint64_t offset = header().snapshots_offset.value;
    const std::uint64_t available = store_.size() - std::min(store_.size(), offset);
    // A cluster that the file ends in goes on with zeros.
    const std::uint64_t bytes_max = std::min(align_up(available, geometry_.cluster_size()),
                                             limits::snapshot_table_bytes_max);

    // Its length is known when it has been decoded: begin with little.
    Result<SnapshotTable> table = SnapshotTable{};
    for (std::uint64_t bytes = std::min(bytes_max, piece_bytes);;
         bytes = std::min(bytes_max, bytes * 8)) {
        Buffer buffer(bytes);
        TRY(store_.read(offset, buffer));
        table = decode_snapshot_table(buffer, header().nb_snapshots, header().disk_size(), geometry_);
        if (table || bytes == bytes_max)
            break;
    }
    if (!table) {
        add(Finding::snapshot_table_past_end, table.error().what);
        return {};
    }
    count(header().snapshots_offset, table->encoded_size, Use::sole,
          Finding::snapshot_table_past_end, [&] { return hex(offset); });
    for (std::size_t i = 0; i < table->snapshots.size(); ++i) {
        const Snapshot &s = table->snapshots[i];
        const std::string name = "the L1 table of snapshot " + number(i);
        if (s.finding)
            add(*s.finding, name + " at " + hex(s.l1_table_offset.value));
        if (s.finding != Finding::snapshot_l1_wrong)
            TRY(walk_l1(s.l1_table_offset, s.l1_size, false, name));
    }
    return {};
}

Result<void> Checker::walk_l1(HostOffset offset, std::uint32_t l1_size, bool active,
                              const std::string &name)
{
    if (!count(offset, std::uint64_t(l1_size) * 8, Use::sole,
               active ? Finding::l1_table_past_end : Finding::snapshot_l1_wrong,
               [&] { return name + " at " + hex(offset.value); }))
        return {};
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto where = [&] { return name + ", entry " + number(i) + ": " + hex(raw); };
        if (raw & l1_entry_reserved)
            add_lazily(Finding::l1_entry_reserved_bits, where);
        const L1Entry entry(raw);
        if (!entry.present()) {
            if (entry.copied())
                add_lazily(Finding::copied_flag_wrong, where);
            return {};
        }
        if (!geometry_.is_aligned(entry.l2_table()))
            add_lazily(Finding::l1_entry_unaligned, where);
        if (active)
            TRY(check_copied(entry.l2_table(), entry.copied(), "L1 entry", i));
        if (count(entry.l2_table(), geometry_.cluster_size(), Use::l2_table,
                  Finding::l2_table_past_end, where)) {
            Named &named = l2_tables_[entry.l2_table()];
            ++named.times;
            named.active |= active;
        }
        return {};
    };
    return for_each_entry(store_, l1_buffer_, offset.value, l1_size, 8, visit);
}

Result<void> Checker::walk_l2_tables()
{
    for (const auto &[table, named] : l2_tables_)
        TRY(walk_l2(table, named.times, named.active));
    return {};
}

Result<void> Checker::walk_l2(HostOffset table, std::uint64_t times, bool active)
{
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t second) {
        return check_l2_entry({table, i, raw, second}, times, active);
    };
    return for_each_entry(store_, l2_buffer_, table.value, geometry_.l2_entries(),
                          geometry_.l2_entry_bytes(), visit);
}

std::string Checker::L2Place::words() const
{
    return "L2 table at " + hex(table.value) + ", entry " + number(index) + ": " + hex(raw);
}

Result<void> Checker::check_l2_entry(const L2Place &entry, std::uint64_t times, bool active)
{
    if (entry.raw & l2_entry_compressed) {
        check_compressed(entry, times);
        return {};
    }
    const auto where = [&] { return entry.words(); };
    const HostOffset host(entry.raw & entry_offset_mask);
    const bool copied = entry.raw & entry_copied;
    if (entry.raw & l2_entry_reserved)
        add_lazily(Finding::l2_entry_reserved_bits, where);
    if ((entry.raw & l2_entry_zero) && geometry_.version < 3)
        add_lazily(Finding::l2_entry_zero_flag_in_v2, where);
    // Of a subcluster's two bits one at most; allocated ones need a cluster.
    const std::uint32_t allocated = static_cast<std::uint32_t>(entry.second);
    if ((allocated & entry.second >> 32) != 0 || (host.value == 0 && allocated != 0))
        add_lazily(Finding::l2_subclusters_wrong, where);
    if (host.value == 0)
        return {};
    if (!geometry_.is_aligned(host))
        add_lazily(Finding::l2_entry_unaligned, where);
    if (has_data_file()) {
        // Nobody counts those clusters, and nobody shares them.
        if (!copied)
            add_lazily(Finding::copied_flag_wrong, where);
        return {};
    }
    count(host, geometry_.cluster_size(), Use::guest, Finding::data_cluster_past_end, where, times);
    if (active)
        TRY(check_copied(host, copied, "L2 entry", entry.index));
    return {};
}

void Checker::check_compressed(const L2Place &entry, std::uint64_t times)
{
    const auto where = [&] { return entry.words(); };
    if (entry.raw & entry_copied)
        add_lazily(Finding::l2_entry_compressed_copied, where);
    if (entry.second != 0)
        add_lazily(Finding::l2_subclusters_wrong, where);
    const auto mapping = decode_l2_entry(entry.raw & ~entry_copied, geometry_);
    if (!mapping || has_data_file()) {
        add_lazily(Finding::l2_entry_reserved_bits, where);
        return;
    }
    const auto &compressed = std::get<Compressed>(*mapping);
    count(compressed.host, compressed.bytes_max, Use::guest, Finding::data_cluster_past_end, where,
          times);
}

Result<void> Checker::check_copied(HostOffset cluster, bool copied, std::string_view what,
                                   std::uint64_t index)
{
    const std::uint64_t n = TRY(refcount(cluster.value >> geometry_.cluster_bits));
    if (copied != (n == 1))
        add_lazily(Finding::copied_flag_wrong, [&] {
            return std::string(what) + " " + number(index) + ", cluster at " + hex(cluster.value) +
                   ": bit 63 is " + number(copied) + ", refcount " + number(n);
        });
    return {};
}

Result<void> Checker::walk_bitmaps()
{
    if (header().version < 3 || !(header().autoclear_features & autoclear::bitmaps))
        return {};
    const Extension *extension = area_.find(ExtensionType::bitmaps);
    if (!extension) {
        add(Finding::bitmaps_extension_missing, "autoclear features " +
                                                    hex(header().autoclear_features));
        return {};
    }
    const auto e = decode_bitmaps_extension(extension->data, geometry_);
    if (!e) {
        add(Finding::bitmap_directory_size_wrong, e.error().what);
        return {};
    }
    if (!count(e->bitmap_directory_offset, e->bitmap_directory_size, Use::sole,
               Finding::bitmap_directory_past_end,
               [&] { return hex(e->bitmap_directory_offset.value); }))
        return {};
    Buffer directory(e->bitmap_directory_size);
    TRY(store_.read(e->bitmap_directory_offset.value, directory));
    const auto entries = decode_bitmap_directory(directory, e->nb_bitmaps, geometry_);
    if (!entries) {
        add(Finding::bitmap_directory_entry_truncated, entries.error().what);
        return {};
    }
    for (const BitmapDirectoryEntry &entry : *entries)
        TRY(walk_bitmap(entry));
    check_padding(directory, *entries);
    return {};
}

void Checker::check_padding(Bytes directory, const std::vector<BitmapDirectoryEntry> &entries)
{
    for (const BitmapDirectoryEntry &e : entries) {
        const std::uint64_t used =
            sizeof(on_disk::BitmapDirectoryEntry) + e.extra_data.size() + e.name.size();
        if (!all_zero(sub(directory, e.position + used, e.encoded_size() - used)))
            add(Finding::bitmap_directory_padding, "bitmap " + quoted(e.name));
    }
}

Result<void> Checker::walk_bitmap(const BitmapDirectoryEntry &entry)
{
    const auto where = [&] {
        return "bitmap " + quoted(entry.name) + ", table at " + hex(entry.bitmap_table_offset.value);
    };
    if (entry.finding) {
        add(*entry.finding, where());
        switch (*entry.finding) {
        case Finding::bitmap_table_missing:
        case Finding::bitmap_table_unaligned:
        case Finding::bitmap_table_past_end:
        case Finding::bitmap_table_size_wrong:
            return {};
        default:
            break;
        }
    } else if (!entry.in_use() &&
               entry.bitmap_table_size !=
                   BitmapSize::of(header().disk_size(), entry.granularity_bits, geometry_)
                       .table_entries) {
        add(Finding::bitmap_table_size_wrong, where());
    }
    if (!count(entry.bitmap_table_offset, std::uint64_t(entry.bitmap_table_size) * 8, Use::sole,
               Finding::bitmap_table_past_end, where))
        return {};
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto at = [&] { return where() + ", entry " + number(i) + ": " + hex(raw); };
        const auto decoded = decode_bitmap_table_entry(raw, geometry_);
        if (!decoded)
            add_lazily(geometry_.is_aligned(HostOffset(raw & entry_offset_mask))
                           ? Finding::bitmap_table_entry_reserved_bits
                           : Finding::bitmap_table_entry_unaligned,
                       at);
        else if (decoded->has_cluster())
            count(decoded->data, geometry_.cluster_size(), Use::sole, Finding::bitmap_data_past_end,
                  at);
        return {};
    };
    return for_each_entry(store_, l1_buffer_, entry.bitmap_table_offset.value,
                         entry.bitmap_table_size, 8, visit);
}

// The part of a refcount block that is about the file and the cluster behind
// its end; empty if there is no block.
Result<Bytes> Checker::block(std::uint64_t index)
{
    if (index < blocks_.size() && index == last_block_ && !last_block_bytes_.empty())
        return last_block_bytes_;
    if (index >= blocks_.size() || blocks_[index] == 0)
        return Bytes();

    constexpr std::size_t cache_bytes_max = 32 << 20;
    const std::uint64_t first = index << geometry_.refcount_block_bits();
    const std::uint64_t file_clusters = geometry_.clusters_for(file_size_) + 1;
    if (first >= file_clusters)
        return Bytes();
    const std::uint64_t entries =
        std::min(file_clusters - first, geometry_.refcount_block_entries());
    if (block_cache_.size() * geometry_.cluster_size() > cache_bytes_max)
        block_cache_.clear();
    auto [it, is_new] = block_cache_.try_emplace(index);
    if (is_new) {
        it->second.resize(align_up(div_ceil(entries << geometry_.refcount_order, 8), 8));
        TRY(store_.read(blocks_[index], it->second));
    }
    last_block_ = index;
    last_block_bytes_ = it->second;
    return last_block_bytes_;
}

Result<std::uint64_t> Checker::refcount(std::uint64_t cluster)
{
    const Bytes bytes = TRY(block(cluster >> geometry_.refcount_block_bits()));
    const std::uint64_t index = cluster & (geometry_.refcount_block_entries() - 1);
    if (index >= std::uint64_t(bytes.size()) * 8 >> geometry_.refcount_order)
        return std::uint64_t(0);
    return load_refcount(bytes, geometry_.refcount_order, index);
}

// Each cluster's refcount against the number of its names: first those that
// a refcount block speaks of, then the named ones without a block. Refcounts
// behind the end of the file do not matter (as with QEMU).
Result<void> Checker::compare()
{
    constexpr std::uint64_t page = ReferenceCounts::page_clusters;
    const std::uint64_t file_clusters = geometry_.clusters_for(file_size_);
    const std::uint32_t order = geometry_.refcount_order;

    for (std::uint64_t b = 0; b < blocks_.size(); ++b) {
        const Bytes bytes = TRY(block(b));
        const std::uint64_t first = b << geometry_.refcount_block_bits();
        if (bytes.empty() || first >= file_clusters)
            continue;
        const std::uint64_t end =
            std::min(file_clusters, first + geometry_.refcount_block_entries());
        for (std::uint64_t c = first; c < end;) {
            const std::uint64_t page_end = std::min(end, align_down(c, page) + page);
            const ReferenceCounts::Word *words = counts_.page(c / page);
            for (; c < page_end; ++c) {
                if (!words) {
                    c = first + find_refcount(bytes, order, c - first, page_end - first, false);
                    if (c == page_end)
                        break;
                }
                compare_one(c, load_refcount(bytes, order, c - first),
                            words ? words[c % page] : ReferenceCounts::Word());
            }
        }
    }
    for (const std::uint64_t p : counts_.page_indices()) {
        const ReferenceCounts::Word *words = counts_.page(p);
        for (std::uint64_t i = 0; i < page; ++i) {
            const std::uint64_t c = p * page + i;
            if (words[i].count() == 0)
                continue;
            if (c >= file_clusters || TRY(block(c >> geometry_.refcount_block_bits())).empty())
                compare_one(c, TRY(refcount(c)), words[i]);
        }
    }
    end_run();
    return {};
}

void Checker::compare_one(std::uint64_t cluster, std::uint64_t refcount, ReferenceCounts::Word used)
{
    if (!used.well_used())
        add_lazily(used.is(Use::guest) ? Finding::data_cluster_is_metadata
                                       : Finding::tables_overlap,
                   [&] { return "host cluster " + hex(cluster << geometry_.cluster_bits); });
    if (refcount == used.count() ||
        (used.count() == ReferenceCounts::count_max && refcount > used.count()))
        return;
    if (run_.count == 0 || run_.first + run_.count != cluster || run_.refcount != refcount ||
        run_.used != used.count()) {
        end_run();
        run_ = {cluster, 0, refcount, used.count()};
    }
    ++run_.count;
}

void Checker::end_run()
{
    if (run_.count != 0)
        add_lazily(
            run_.refcount > run_.used ? Finding::refcount_too_high : Finding::refcount_too_low,
            [&] {
                return "host cluster " + hex(run_.first << geometry_.cluster_bits) + ": refcount " +
                       number(run_.refcount) + ", used " + number(run_.used) + " times";
            },
            run_.count);
    run_.count = 0;
}

}  // namespace

std::string CheckReport::text() const
{
    std::string out;
    for (const CheckFinding &f : findings) {
        out.append(name_of(f.finding)).append(": ").append(sentence_of(f.finding));
        out.append(" (").append(f.place);
        if (f.count > 1)
            out.append(", and the next ").append(number(f.count - 1));
        out.append(")\n");
    }
    return out + number(corruptions) + " corruptions, " + number(leaks) + " leaked clusters\n";
}

Result<CheckReport> check(ByteStore &store) { return Checker(store).run(); }

}  // namespace qcow2
