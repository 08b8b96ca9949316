// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/stored_bitmap.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {
constexpr std::uint64_t entries_per_sector = limits::sector / 8;
}

StoredBitmap::StoredBitmap(Image &image, const BitmapDirectoryEntry &entry)
    : image_(image),
      geometry_(image.geometry()),
      table_offset_(entry.bitmap_table_offset),
      table_size_(entry.bitmap_table_size),
      size_(BitmapSize::of(image.disk_size(), entry.granularity_bits, geometry_))
{
}

Result<void> StoredBitmap::open()
{
    const std::string where = "bitmap table at " + hex(table_offset_.value);
    if (table_size_ != size_.table_entries)
        return finding(Finding::bitmap_table_size_wrong,
                       where + ": " + std::to_string(table_size_) + " entries, not " +
                           std::to_string(size_.table_entries));
    ByteStore &store = image_.store();
    if (!fits(table_offset_.value, table_size_ * 8, store.size()))
        return finding(Finding::bitmap_table_past_end, where);
    if (!image_.metadata().add(
            {geometry_.cluster_of(table_offset_), geometry_.clusters_for(table_size_ * 8)}))
        return finding(Finding::tables_overlap, where);

    Buffer raw(table_size_ * 8);
    TRY(store.read(table_offset_.value, raw).in(where));
    for (std::uint64_t i = 0; i < table_size_; ++i) {
        const std::string entry = where + ", entry " + std::to_string(i);
        table_.push_back(TRY(decode_bitmap_table_entry(load_be64(&raw[i * 8]), geometry_).in(entry)));
        if (!table_[i].has_cluster())
            continue;
        if (table_[i].data.value >= store.size())
            return finding(Finding::bitmap_data_past_end, entry + ": " + hex(table_[i].data.value));
        if (!image_.metadata().add({geometry_.cluster_of(table_[i].data), 1}))
            return finding(Finding::tables_overlap, entry + ": " + hex(table_[i].data.value));
    }
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

void StoredBitmap::reserve_last()
{
    const std::uint64_t last = table_.size() - 1;
    if (table_[last].has_cluster() || reserved_.count != 0 || !has_tail(last))
        return;
    if (const auto run = take_zeroed())
        reserved_ = *run;
}

void StoredBitmap::give_back_reserved()
{
    if (reserved_.count != 0)
        image_.allocator().give_back(reserved_);
    reserved_ = {};
}

Result<void> StoredBitmap::add(const TouchedBits &touched)
{
    Buffer bits(TouchedBits::page_bytes);
    for (std::uint64_t page = 0; page < touched.pages(); ++page)
        if (touched.load_page(page, bits))
            TRY(add_page(page, bits).in("bitmap data"));
    return write_table();
}

// A page of memory may be several clusters, and a cluster several pages.
Result<void> StoredBitmap::add_page(std::uint64_t page, Bytes bits)
{
    const std::uint64_t cluster_size = geometry_.cluster_size();
    const std::uint64_t step = std::min<std::uint64_t>(cluster_size, bits.size());
    Buffer merged(step);
    for (std::uint64_t at = 0; at < bits.size(); at += step) {
        const Bytes part = sub(bits, at, step);
        if (all_zero(part))
            continue;
        const std::uint64_t byte = page * TouchedBits::page_bytes + at;
        const std::uint64_t entry = byte / cluster_size;
        if (!table_[entry].has_cluster() && !table_[entry].all_ones)
            TRY(make_cluster(entry));
        if (table_[entry].all_ones)
            continue;
        const std::uint64_t place = table_[entry].data.value + byte % cluster_size;
        TRY(image_.store().read(place, merged));
        std::transform(part.begin(), part.end(), merged.begin(), merged.begin(),
                       [](std::uint8_t a, std::uint8_t b) { return a | b; });
        mask_tail(byte, merged);
        TRY(image_.store().write(place, merged));
    }
    return {};
}

Result<void> StoredBitmap::make_cluster(std::uint64_t entry)
{
    HostRun run;
    if (entry == table_.size() - 1 && reserved_.count != 0) {
        run = std::exchange(reserved_, {});
    } else {
        auto taken = take_zeroed();
        if (!taken && taken.error().code == Errc::no_space && !has_tail(entry)) {
            table_[entry].all_ones = true;  // B7
            table_dirty_.insert(entry / entries_per_sector);
            return {};
        }
        run = TRY(std::move(taken));
    }
    image_.metadata().add(run);
    table_[entry].data = geometry_.offset_of(run.first);
    table_dirty_.insert(entry / entries_per_sector);
    return {};
}

Result<void> StoredBitmap::write_table()
{
    for (auto sector = table_dirty_.begin(); sector != table_dirty_.end();) {
        const std::uint64_t first = *sector * entries_per_sector;
        const std::uint64_t end = std::min<std::uint64_t>(first + entries_per_sector, table_.size());
        Buffer bytes((end - first) * 8);
        for (std::uint64_t i = first; i < end; ++i)
            store_be64(&bytes[(i - first) * 8], table_[i].raw());
        TRY(image_.store().write(table_offset_.value + first * 8, bytes).in("bitmap table"));
        sector = table_dirty_.erase(sector);
    }
    return {};
}

}  // namespace qcow2
