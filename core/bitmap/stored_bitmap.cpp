// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/stored_bitmap.h"

#include <algorithm>

#include "core/base/rare.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t entries_per_sector = limits::sector / 8;

// Of a word that was checked.
BitmapTableEntry entry_from(std::uint64_t raw)
{
    return {HostOffset(raw & entry_offset_mask), (raw & bitmap_table_entry_all_ones) != 0};
}

}  // namespace

StoredBitmap::StoredBitmap(Image &image, const BitmapDirectoryEntry &entry)
    : image_(image),
      geometry_(image.geometry()),
      table_offset_(entry.bitmap_table_offset),
      table_size_(entry.bitmap_table_size),
      size_(BitmapSize::of(image.disk_size(), entry.granularity_bits, geometry_))
{
}

Result<void> StoredBitmap::open(TableBuffer &buffer, bool notes)
{
    const auto note = [&](HostRun run) { return !notes || image_.metadata().add(run); };
    const std::string where = formatted("bitmap table at {:#x}", table_offset_.value);
    if (table_size_ != size_.table_entries)
        return finding(Finding::bitmap_table_size_wrong, "{}: {} entries, not {}", where,
                       table_size_, size_.table_entries);
    ByteStore &store = image_.store();
    if (!fits(table_offset_.value, table_size_ * 8, store.size()))
        return finding(Finding::bitmap_table_past_end, where);
    if (!note({geometry_.cluster_of(table_offset_), geometry_.clusters_for(table_size_ * 8)}))
        return finding(Finding::tables_overlap, where);

    SparseWords table(table_size_);
    const auto visit = [&](std::uint64_t i, std::uint64_t raw, std::uint64_t) -> Result<void> {
        const auto entry = [&] { return formatted("{}, entry {}", where, i); };
        const auto decoded = decode_bitmap_table_entry(raw, geometry_);
        if (!decoded)
            return Error(decoded.error()).in(entry());
        if (decoded->has_cluster() && decoded->data.value >= store.size())
            return finding(Finding::bitmap_data_past_end, "{}: {:#x}", entry(),
                           decoded->data.value);
        if (decoded->has_cluster() && !note({geometry_.cluster_of(decoded->data), 1}))
            return finding(Finding::tables_overlap, "{}: {:#x}", entry(), decoded->data.value);
        table.set(i, raw);
        return {};
    };
    buffer.where = where;
    TRY(for_each_entry(store, buffer, table_offset_.value, table_size_, 8, visit));
    Locked lock(table_mutex_);
    table_ = std::move(table);
    return {};
}

bool StoredBitmap::has_tail(std::uint64_t entry) const
{
    return (entry + 1) * geometry_.cluster_size() * 8 > size_.bits;
}

void StoredBitmap::mask_tail(std::uint64_t first_byte, MutableBytes bytes) const
{
    if (first_byte + bytes.size() < size_.data_bytes)
        return;
    const std::uint64_t last = size_.data_bytes - 1 - first_byte;
    if (size_.bits % 8 != 0)
        bytes[last] &= (1u << (size_.bits % 8)) - 1;
    std::fill(bytes.begin() + last + 1, bytes.end(), 0);
}

// A cluster of zeros, written so that the file system has given it room.
Result<HostRun> StoredBitmap::take_zeroed()
{
    const HostRun run = TRY(image_.allocator().take(1)).run;
    Result<void> zeroed = image_.store().write(geometry_.offset_of(run.first).value,
                                               Buffer(geometry_.cluster_size()));
    if (!zeroed) {
        image_.allocator().give_back(run);
        return std::move(zeroed).error();
    }
    return run;
}

Result<void> StoredBitmap::make_last()
{
    const std::uint64_t last = table_size_ - 1;
    const BitmapTableEntry there = entry_of(last);
    // All ones need no room: each bit is set already.
    return there.has_cluster() || there.all_ones || !has_tail(last) ? Result<void>()
                                                                    : make_cluster(last);
}

void StoredBitmap::mark_given_up() { set_entry(table_size_ - 1, {.data = {}, .all_ones = true}); }

BitmapTableEntry StoredBitmap::entry_of(std::uint64_t entry) const
{
    Locked lock(table_mutex_);
    return entry_from(table_[entry]);
}

// As it is known to stand in the file. One that names a new cluster says the
// same as the 0 that was there: nothing is believed of what the cluster is to get.
BitmapTableEntry StoredBitmap::durable_entry_of(std::uint64_t entry) const
{
    Locked lock(table_mutex_);
    return all_ones_unsure_.contains(entry) ? BitmapTableEntry{} : entry_from(table_[entry]);
}

void StoredBitmap::set_entry(std::uint64_t entry, BitmapTableEntry value)
{
    Locked lock(table_mutex_);
    table_.set(entry, value.raw());
    if (value.all_ones)
        all_ones_unsure_.insert(entry);
    table_dirty_.insert(entry / entries_per_sector);
}

// A page may be several clusters, and a cluster several pages: both are gone
// through in steps of the smaller one.
Result<void> StoredBitmap::load(std::uint64_t page, MutableBytes bytes)
{
    const std::uint64_t cluster_size = geometry_.cluster_size();
    const std::uint64_t step = std::min<std::uint64_t>(cluster_size, bytes.size());
    const std::uint64_t first = page * DirtyBits::page_bytes;
    std::fill(bytes.begin(), bytes.end(), 0);
    for (std::uint64_t at = 0; at < bytes.size() && first + at < size_.data_bytes; at += step) {
        const BitmapTableEntry entry = durable_entry_of((first + at) / cluster_size);
        const MutableBytes part = sub(bytes, at, step);
        if (entry.has_cluster())
            TRY(image_.store()
                    .read(entry.data.value + (first + at) % cluster_size, part)
                    .in("bitmap data"));
        else if (entry.all_ones)
            std::fill(part.begin(), part.end(), 0xff);
        mask_tail(first + at, part);
    }
    return {};
}

bool StoredBitmap::has_clusters(std::uint64_t page) const
{
    const Range bytes = Range::of(page * DirtyBits::page_bytes, DirtyBits::page_bytes);
    const Range entries = bytes.touched(geometry_.cluster_size());
    for (std::uint64_t entry = entries.begin; entry < std::min(entries.end, table_size_); ++entry)
        if (!entry_of(entry).has_cluster())
            return false;
    return true;
}

std::uint64_t StoredBitmap::next_stored(std::uint64_t page) const
{
    const std::uint64_t cluster_size = geometry_.cluster_size();
    const std::uint64_t entry = page * DirtyBits::page_bytes / cluster_size;
    Locked lock(table_mutex_);
    const std::uint64_t next = table_.next_set(entry);
    return next == table_.size() ? ~std::uint64_t(0)
                                 : std::max(page, next * cluster_size / DirtyBits::page_bytes);
}

Result<std::vector<ByteStore::Part>> StoredBitmap::place(const PageImage &image)
{
    std::vector<ByteStore::Part> parts;
    const std::uint64_t cluster_size = geometry_.cluster_size();
    const std::uint64_t step = std::min<std::uint64_t>(cluster_size, image.content.size());
    const std::uint64_t first = image.page * DirtyBits::page_bytes;
    for (std::uint64_t at = 0; at < image.content.size() && first + at < size_.data_bytes;
         at += step) {
        if (!image.touches(Range::of(at, step)))
            continue;
        const Bytes part = sub(Bytes(image.content), at, step);
        const std::uint64_t entry = (first + at) / cluster_size;
        BitmapTableEntry there = entry_of(entry);
        if (!there.has_cluster() && !there.all_ones && !all_zero(part)) {
            TRY(make_cluster(entry));
            there = entry_of(entry);
        }
        if (there.has_cluster())
            parts.push_back({there.data.value + (first + at) % cluster_size, part});
    }
    return parts;
}

Result<void> StoredBitmap::make_cluster(std::uint64_t entry)
{
    const auto taken = take_zeroed();
    if (!taken && taken.error().code == Errc::no_space && !has_tail(entry)) {
        RARE("bits become all ones for lack of room (B7)");
        set_entry(entry, {.data = {}, .all_ones = true});
        return {};
    }
    const HostRun run = TRY(std::move(taken));
    image_.metadata().add(run);
    set_entry(entry, {.data = geometry_.offset_of(run.first), .all_ones = false});
    return {};
}

std::vector<SmallWrite> StoredBitmap::table_writes() const
{
    std::vector<SmallWrite> writes;
    Locked lock(table_mutex_);
    for (const std::uint64_t sector : table_dirty_) {
        const std::uint64_t first = sector * entries_per_sector;
        const std::uint64_t end =
            std::min<std::uint64_t>(first + entries_per_sector, table_.size());
        Buffer bytes((end - first) * 8);
        for (std::uint64_t i = first; i < end; ++i)
            store_be64(&bytes[(i - first) * 8], table_[i]);
        writes.push_back({table_offset_.value + first * 8, std::move(bytes)});
    }
    return writes;
}

void StoredBitmap::table_written()
{
    Locked lock(table_mutex_);
    table_dirty_.clear();
    all_ones_unsure_.clear();
}

}  // namespace qcow2
