// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/resized_bitmaps.h"

#include <algorithm>

#include "core/bitmap/directory.h"
#include "core/structure/new_bitmap_directory.h"

namespace qcow2 {

namespace {

void clear_from(std::uint64_t bit, MutableBytes bytes)
{
    const std::uint64_t whole = div_ceil(bit, 8);
    if (bit % 8 != 0)
        bytes[whole - 1] &= static_cast<std::uint8_t>((1u << bit % 8) - 1);
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(whole), bytes.end(), 0);
}

}  // namespace

ResizedBitmaps::ResizedBitmaps(Image &image, const Tracker &tracker, std::uint64_t size)
    : image_(image),
      tracker_(tracker),
      geometry_(image.geometry()),
      size_(size),
      entries_(tracker.entries())
{
}

// What nobody can use stays as it is if everybody is told so by in_use. To let
// another one fall behind the disk would be a lie.
Result<void> ResizedBitmaps::check() const
{
    for (std::size_t i = 0; i < entries_.size(); ++i) {
        const BitmapDirectoryEntry &e = entries_[i];
        if (!has_another_size() && !is_set(e))
            continue;
        if (const auto cause = tracker_.why_not_followed(i)) {
            if (!e.in_use())
                return Error(*cause).in("{} cannot follow the disk to another size",
                                        words_for_bitmap(e.name));
            continue;
        }
        if (!e.in_use())
            TRY(check_bitmap_limits(size_, e.granularity_bits, geometry_)
                    .in(words_for_bitmap(e.name)));
    }
    return {};
}

Result<void> ResizedBitmaps::prepare(Aside &aside)
{
    TRY(check());
    for (std::size_t i = 0; i < entries_.size(); ++i)
        if (is_set(entries_[i]))
            TRY(set_all(entries_[i], aside).in(words_for_bitmap(entries_[i].name)));
        else if (has_another_size() && !tracker_.why_not_followed(i) &&
                 check_bitmap_limits(size_, entries_[i].granularity_bits, geometry_))
            TRY(resize(entries_[i], aside).in(words_for_bitmap(entries_[i].name)));
    if (entries_ == tracker_.entries())
        return {};
    change_ = TRY(write_bitmap_directory(aside, entries_, tracker_.directory_clusters()));
    return {};
}

void ResizedBitmaps::apply(HeaderArea &area) const
{
    if (change_)
        change_(area);
}

Result<ResizedBitmaps::Table> ResizedBitmaps::load_table(const BitmapDirectoryEntry &e)
{
    Buffer raw(std::uint64_t(e.bitmap_table_size) * 8);
    TRY(image_.store().read(e.bitmap_table_offset.value, raw).in("bitmap table"));
    Table table;
    for (std::size_t at = 0; at < raw.size(); at += 8)
        table.push_back(TRY(decode_bitmap_table_entry(load_be64(&raw[at]), geometry_)));
    return table;
}

// Its table is exactly that of the old size: the tracker has looked.
Result<void> ResizedBitmaps::resize(BitmapDirectoryEntry &e, Aside &aside)
{
    const BitmapSize was = BitmapSize::of(image_.disk_size(), e.granularity_bits, geometry_);
    const BitmapSize is = BitmapSize::of(size_, e.granularity_bits, geometry_);
    const Table old = TRY(load_table(e));
    Table table = old;
    for (std::uint64_t i = is.table_entries; i < old.size(); ++i)
        if (old[i].has_cluster())
            aside.replace({geometry_.cluster_of(old[i].data), 1});
    table.resize(is.table_entries);

    const std::uint64_t kept = std::min(was.bits, is.bits);
    const std::uint64_t per_cluster = geometry_.cluster_size() * 8;
    if (kept % per_cluster != 0)
        TRY(cut_cluster(table[kept / per_cluster], kept % per_cluster, aside).in("bitmap data"));
    if (table == old)
        return {};

    return write_table(e, table, aside);
}

// All ones need no data clusters, but for the last one, whose tail is zero.
Result<void> ResizedBitmaps::set_all(BitmapDirectoryEntry &e, Aside &aside)
{
    for (const BitmapTableEntry &old : TRY(load_table(e)))
        if (old.has_cluster())
            aside.replace({geometry_.cluster_of(old.data), 1});
    const BitmapSize size = BitmapSize::of(size_, e.granularity_bits, geometry_);
    Table table(size.table_entries, BitmapTableEntry{HostOffset(), true});
    const std::uint64_t tail = size.bits % (geometry_.cluster_size() * 8);
    if (tail != 0) {
        Buffer ones(geometry_.cluster_size(), 0xff);
        clear_from(tail, ones);
        table.back() = {TRY(aside.write(std::move(ones)).in("bitmap data")), false};
    }
    return write_table(e, table, aside);
}

// Instead of the one that is there.
Result<void> ResizedBitmaps::write_table(BitmapDirectoryEntry &e, const Table &table, Aside &aside)
{
    aside.replace({geometry_.cluster_of(e.bitmap_table_offset),
                   geometry_.clusters_for(std::uint64_t(e.bitmap_table_size) * 8)});
    e.bitmap_table_offset =
        TRY(aside.write(encode_entries<BitmapTableEntry>(table)).in("bitmap table"));
    e.bitmap_table_size = static_cast<std::uint32_t>(table.size());
    return {};
}

// The cluster that holds the last bits that stay: `bits` of it do, the others
// are 0.
Result<void> ResizedBitmaps::cut_cluster(BitmapTableEntry &entry, std::uint64_t bits, Aside &aside)
{
    if (!entry.has_cluster() && !entry.all_ones)
        return {};
    Buffer old(geometry_.cluster_size(), 0xff);
    if (entry.has_cluster())
        TRY(image_.store().read(entry.data.value, old));
    Buffer cut = old;
    clear_from(bits, cut);
    if (entry.has_cluster() && cut == old)
        return {};
    if (entry.has_cluster())
        aside.replace({geometry_.cluster_of(entry.data), 1});
    entry = {};
    if (!all_zero(cut))
        entry.data = TRY(aside.write(std::move(cut)));
    return {};
}

}  // namespace qcow2
