// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/image_builder.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "core/format/bitmap_table.h"
#include "core/format/cluster_mapping.h"
#include "core/format/refcount_block.h"
#include "core/format/snapshot_table.h"
#include "core/format/table_entry.h"
#include "tests/support/payload.h"

namespace qcow2::test {

namespace {

bool is_shared(Preset preset)
{
    return preset == Preset::shared_data || preset == Preset::shared_zero_with_cluster;
}
bool in_active(Preset preset) { return preset != Preset::snapshot_data; }
bool in_snapshot(Preset preset) { return is_shared(preset) || preset == Preset::snapshot_data; }
bool reads_as_zeros(Preset preset)
{
    return preset != Preset::data && preset != Preset::shared_data;
}

class Builder {
public:
    // host_clusters: how many clusters the file has at most.
    Builder(const ImageSpec &spec, std::uint64_t host_clusters)
        : spec_(spec), geometry_(spec.geometry()), host_clusters_(host_clusters)
    {
        snapshot_ =
            spec.snapshot || std::any_of(spec.clusters.begin(), spec.clusters.end(),
                                         [](const auto &c) { return in_snapshot(c.second); });
        header_.version = spec.version;
        header_.cluster_bits = spec.cluster_bits;
        header_.refcount_order = spec.refcount_order;
        header_.size = spec.size;
        header_.header_length = spec.version == 2 ? header_length_v2 : spec.header_length;
    }

    BuiltImage build()
    {
        BuiltImage built{{}, ReferenceDisk(header_.disk_size()), {}, {}};
        take(1);  // cluster 0
        reserve_refcounts();
        header_.l1_size = static_cast<std::uint32_t>(geometry_.l1_entries_for(spec_.size));
        const std::uint64_t l1_clusters = geometry_.clusters_for(header_.l1_size * 8);
        // In a file that ends inside a cluster without data the L1 table ends it.
        for (const auto &[cluster, preset] : spec_.clusters)
            if (preset == Preset::data && spec_.unpadded_end)
                last_cluster_ = cluster;
        const bool l1_last = spec_.unpadded_end && !last_cluster_;
        if (!l1_last)
            header_.l1_table_offset = take(l1_clusters);
        if (snapshot_)
            snapshot_l1_ = take(l1_clusters);
        add_bitmaps(built);
        add_clusters(built);
        if (snapshot_)
            add_snapshot();
        if (l1_last)
            header_.l1_table_offset = take(l1_clusters);
        for (const auto &[index, entry] : l1_)
            store_word(header_.l1_table_offset.value + index * 8, entry);
        for (const auto &[index, entry] : snapshot_l1_entries_)
            store_word(snapshot_l1_.value + index * 8, entry);

        built.image.size = next_ << spec_.cluster_bits;
        if (l1_last)  // free clusters may follow
            built.image.size = header_.l1_table_offset.value + header_.l1_size * 8;
        else if (spec_.unpadded_end)
            add_last(built);
        add_refcounts();
        add_header(built);
        built.image.bytes = std::move(bytes_);
        return built;
    }

    std::uint64_t clusters_used() const { return next_; }
    std::uint64_t clusters_counted() const
    {
        return blocks_.size() * geometry_.refcount_block_entries();
    }

private:
    // Some clusters side by side, refcount 1.
    HostOffset take(std::uint64_t count)
    {
        const HostOffset offset = geometry_.offset_of(HostCluster(next_));
        for (std::uint64_t i = 0; i < count; ++i)
            refcounts_[next_ + i] = 1;
        next_ += count;
        if (spec_.free_every != 0 && ++taken_ % spec_.free_every == 0)
            ++next_;
        return offset;
    }

    void store_word(std::uint64_t offset, std::uint64_t word)
    {
        std::uint8_t raw[8];
        store_be64(raw, word);
        bytes_.write(offset, raw);
    }

    void reserve_refcounts()
    {
        const std::uint64_t blocks = div_ceil(host_clusters_, geometry_.refcount_block_entries());
        header_.refcount_table_clusters = static_cast<std::uint32_t>(
            std::max<std::uint64_t>(1, geometry_.clusters_for(blocks * 8)));
        header_.refcount_table_offset = take(header_.refcount_table_clusters);
        for (std::uint64_t i = 0; i < blocks; ++i)
            blocks_.push_back(take(1));
    }

    void add_refcounts()
    {
        const std::uint64_t entries = geometry_.refcount_block_entries();
        Buffer block;
        for (std::size_t i = 0; i < blocks_.size(); ++i) {
            store_word(header_.refcount_table_offset.value + i * 8, blocks_[i].value);
            block.assign(geometry_.cluster_size(), 0);
            for (auto it = refcounts_.lower_bound(i * entries);
                 it != refcounts_.end() && it->first < (i + 1) * entries; ++it)
                store_refcount(block, spec_.refcount_order, it->first - i * entries, it->second);
            bytes_.write(blocks_[i].value, block);
        }
    }

    void add_clusters(BuiltImage &built)
    {
        std::map<std::uint64_t, std::vector<std::pair<std::uint64_t, Preset>>> tables;
        for (const auto &[cluster, preset] : spec_.clusters) {
            INVARIANT(cluster < geometry_.clusters_for(spec_.size));
            tables[geometry_.l1_index(GuestCluster(cluster))].emplace_back(cluster, preset);
        }
        for (const auto &[index, presets] : tables)
            add_l2_table(built, index, presets);
    }

    void add_l2_table(BuiltImage &built, std::uint64_t index,
                      const std::vector<std::pair<std::uint64_t, Preset>> &presets)
    {
        const auto some = [&presets](auto predicate) {
            return std::any_of(presets.begin(), presets.end(),
                               [&](const auto &p) { return predicate(p.second); });
        };
        const bool one_table =
            spec_.shared_l2_tables && !some([](Preset p) { return !is_shared(p); });
        HostOffset active, snapshot;
        if (some(in_active)) {
            active = take(1);
            l1_[index] = L1Entry::of(active, !one_table).raw();
        }
        if (one_table) {
            snapshot = active;
            refcounts_[geometry_.cluster_of(active).value] = 2;
        } else if (some(in_snapshot)) {
            snapshot = take(1);
        }
        if (snapshot.value != 0)
            snapshot_l1_entries_[index] = L1Entry::of(snapshot, false).raw();

        for (const auto &[cluster, preset] : presets) {
            if (cluster == last_cluster_) {
                last_table_ = active;
                continue;
            }
            const ClusterMapping mapping = add_cluster(built, cluster, preset);
            const std::uint64_t entry = encode_l2_entry(mapping, geometry_);
            const std::uint64_t at = geometry_.l2_index(GuestCluster(cluster)) * 8;
            if (in_active(preset))
                store_word(active.value + at, entry);
            if (in_snapshot(preset) && !one_table)
                store_word(snapshot.value + at, entry);
        }
    }

    ClusterMapping add_cluster(BuiltImage &built, std::uint64_t cluster, Preset preset)
    {
        if (preset == Preset::zero)
            return Zero{};
        const HostOffset host = take(1);
        const bool copied = !in_snapshot(preset);
        if (is_shared(preset))
            refcounts_[geometry_.cluster_of(host).value] = 2;
        // What stands in a cluster that reads as zeros must not be seen.
        const GuestOffset guest = geometry_.offset_of(GuestCluster(cluster));
        const Buffer content =
            payload(guest, geometry_.cluster_size(), reads_as_zeros(preset) ? 0xdead : 0);
        bytes_.write(host.value, content);
        if (!reads_as_zeros(preset) && guest.value < built.reference.size()) {
            const std::uint64_t inside =
                std::min<std::uint64_t>(content.size(), built.reference.size() - guest.value);
            built.reference.preset(guest, sub(Bytes(content), 0, inside));
        }
        if (preset == Preset::zero_with_cluster || preset == Preset::shared_zero_with_cluster)
            return Zero{host, copied};
        return Data{host, copied};
    }

    // The file ends in the middle of a data cluster.
    void add_last(BuiltImage &built)
    {
        const GuestOffset guest = geometry_.offset_of(GuestCluster(*last_cluster_));
        const ClusterMapping mapping = add_cluster(built, *last_cluster_, Preset::data);
        const HostOffset host = std::get<Data>(mapping).host;
        store_word(last_table_.value + geometry_.l2_index(GuestCluster(*last_cluster_)) * 8,
                   encode_l2_entry(mapping, geometry_));
        const std::uint64_t kept = geometry_.cluster_size() / 2 + 77;
        const std::uint64_t gone = geometry_.cluster_size() - kept;
        next_ = geometry_.cluster_of(host).value + 1;
        bytes_.zero(host.value + kept, gone);
        if (guest.value + kept < built.reference.size())
            built.reference.preset(
                guest + kept, Buffer(std::min(gone, built.reference.size() - guest.value - kept)));
        built.image.size = host.value + kept;
        built.at_end = guest + kept;
    }

    void add_snapshot()
    {
        Snapshot snapshot;
        snapshot.l1_table_offset = snapshot_l1_;
        snapshot.l1_size = header_.l1_size;
        snapshot.id = "1";
        snapshot.name = "before";
        snapshot.date_seconds = 1700000000;
        snapshot.disk_size = spec_.size;
        snapshot.extra_data.assign(16, 0);
        const Buffer table = encode_snapshot_table({snapshot});
        header_.nb_snapshots = 1;
        bytes_.write(header_.snapshots_offset.value, table);
    }

    void add_bitmaps(BuiltImage &built)
    {
        // Before the clusters: the last of those may have to end the file.
        if (snapshot_)
            header_.snapshots_offset = take(1);
        std::uint64_t directory_bytes = 0;
        for (const BitmapSpec &bitmap : spec_.bitmaps)
            directory_bytes += align_up(24 + bitmap.extra_data.size() + bitmap.name.size(), 8);
        if (spec_.bitmaps.empty())
            return;
        INVARIANT(spec_.version >= 3);
        const HostOffset directory = take(geometry_.clusters_for(directory_bytes));
        for (const BitmapSpec &bitmap : spec_.bitmaps)
            add_bitmap(built, bitmap);
        const Buffer encoded = encode_bitmap_directory(built.bitmaps);
        INVARIANT(encoded.size() == directory_bytes);
        bytes_.write(directory.value, encoded);
        bitmaps_extension_ = BitmapsExtension{static_cast<std::uint32_t>(spec_.bitmaps.size()),
                                              directory_bytes, directory};
        header_.autoclear_features |= autoclear::bitmaps;
    }

    void add_bitmap(BuiltImage &built, const BitmapSpec &spec)
    {
        const auto size = BitmapSize::of(header_.disk_size(), spec.granularity_bits, geometry_);
        built.reference.add_bitmap(spec.name, spec.granularity_bits, spec.enabled);
        ReferenceBitmap &reference = built.reference.bitmaps()[spec.name];
        reference.in_use = spec.in_use;
        for (const Range &range : spec.set)
            reference.bits.set(range);

        BitmapDirectoryEntry entry;
        entry.bitmap_table_size = static_cast<std::uint32_t>(size.table_entries);
        entry.flags = (spec.enabled ? bitmap_flags::auto_ : 0) |
                      (spec.in_use ? bitmap_flags::in_use : 0) |
                      (spec.extra_data.empty() ? 0 : bitmap_flags::extra_data_compatible);
        entry.granularity_bits = static_cast<std::uint8_t>(spec.granularity_bits);
        entry.name = spec.name;
        entry.extra_data = spec.extra_data;
        entry.bitmap_table_offset = take(geometry_.clusters_for(size.table_entries * 8));
        const Bytes bits = reference.bits.bytes();
        for (std::uint64_t i = 0; i < size.table_entries; ++i) {
            const std::uint64_t begin = i << spec_.cluster_bits;
            const Bytes piece =
                sub(bits, begin,
                    std::min<std::uint64_t>(geometry_.cluster_size(), bits.size() - begin));
            std::uint64_t word = 0;
            const bool full =
                std::all_of(piece.begin(), piece.end(), [](auto b) { return b == 0xff; });
            if (full && spec.all_ones_without_cluster && i + 1 < size.table_entries) {
                word = bitmap_table_entry_all_ones;
            } else if (!all_zero(piece)) {
                const HostOffset data = take(1);
                bytes_.write(data.value, piece);
                word = data.value;
            }
            store_word(entry.bitmap_table_offset.value + i * 8, word);
        }
        built.bitmaps.push_back(std::move(entry));
    }

    void add_header(BuiltImage &built)
    {
        built.area.header = header_;
        if (spec_.version >= 3 && spec_.feature_names != 0) {
            // kind, bit, name
            static const std::vector<std::pair<std::array<std::uint8_t, 2>, std::string>> names = {
                {{0, 0}, "dirty bit"},
                {{0, 1}, "corrupt bit"},
                {{2, 0}, "bitmaps"},
                {{1, 0}, "lazy refcounts"},
                {{0, 4}, "extended L2 entries"}};
            Extension table{ExtensionType::feature_names, {}};
            for (unsigned i = 0; i < spec_.feature_names; ++i) {
                const auto &[kind, name] = names.at(i);
                Buffer entry(48, 0);
                std::copy(kind.begin(), kind.end(), entry.begin());
                std::copy(name.begin(), name.end(), entry.begin() + 2);
                table.data.insert(table.data.end(), entry.begin(), entry.end());
            }
            built.area.extensions.push_back(std::move(table));
        }
        if (bitmaps_extension_)
            built.area.extensions.push_back(encode_bitmaps_extension(*bitmaps_extension_));
        for (const Extension &extension : spec_.more_extensions)
            built.area.extensions.push_back(extension);
        const auto cluster = encode_header_area(built.area, {});
        INVARIANT(cluster.has_value());
        bytes_.write(0, *cluster);
    }

    const ImageSpec &spec_;
    const Geometry geometry_;
    const std::uint64_t host_clusters_;
    bool snapshot_ = false;
    Header header_;
    SparseBytes bytes_;
    std::uint64_t next_ = 0;  // host cluster
    std::uint64_t taken_ = 0;
    std::map<std::uint64_t, std::uint64_t> refcounts_;
    std::vector<HostOffset> blocks_;
    std::map<std::uint64_t, std::uint64_t> l1_, snapshot_l1_entries_;
    HostOffset snapshot_l1_;
    std::optional<BitmapsExtension> bitmaps_extension_;
    // The guest cluster whose data end the file, and its L2 table.
    std::optional<std::uint64_t> last_cluster_;
    HostOffset last_table_;
};

}  // namespace

BuiltImage build_image(const ImageSpec &spec)
{
    // How many clusters the refcounts have to count depends on how many they
    // take themselves.
    for (std::uint64_t host_clusters = 1;;) {
        Builder builder(spec, host_clusters);
        BuiltImage built = builder.build();
        if (builder.clusters_used() <= builder.clusters_counted())
            return built;
        host_clusters = builder.clusters_used();
    }
}

}  // namespace qcow2::test
