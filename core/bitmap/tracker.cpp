// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/tracker.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

// Names may be any bytes: those that a terminal would take amiss become '?'.
std::string quoted(const std::string &name)
{
    std::string text = "bitmap '" + name + "'";
    for (char &c : text)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            c = '?';
    return text;
}

Tracker::Tracker(Image &image, BitmapSync sync, std::uint64_t region_bytes)
    : image_(image), sync_(sync), region_bytes_(region_bytes),
      arming_(image, enabled_, [this](EnabledBitmap &bitmap) { return give_up(bitmap); })
{
}

Result<void> Tracker::open()
{
    const HeaderArea area = image_.header().area();
    const Extension *extension = area.find(ExtensionType::bitmaps);
    const bool bit = area.header.autoclear_features & autoclear::bitmaps;
    if (area.header.version < 3) {
        if (extension)
            note_ = "the bitmaps of a version 2 image cannot be trusted; they are left alone";
        return {};
    }
    if (bit && !extension) {
        why_read_only_ = finding(Finding::bitmaps_extension_missing);
        return {};
    }
    if (!extension)
        return {};
    if (!bit) {
        note_ = "the bitmaps of the image are out of date (autoclear bit 0 is clear); they are "
                "left alone, 'qemu-img check -r leaks' frees them";
        return {};
    }
    Result<void> result = open_directory(*extension);
    if (!result) {
        if (result.error().code == Errc::io)
            return result;
        why_read_only_ = std::move(result).error();
    }
    return {};
}

Result<void> Tracker::open_directory(const Extension &extension)
{
    const Geometry &geometry = image_.geometry();
    const BitmapsExtension bitmaps = TRY(decode_bitmaps_extension(extension.data, geometry));
    const std::string where = "bitmap directory at " + hex(bitmaps.bitmap_directory_offset.value);
    if (!fits(bitmaps.bitmap_directory_offset.value, bitmaps.bitmap_directory_size,
              image_.store().size()))
        return finding(Finding::bitmap_directory_past_end, where);
    Buffer bytes(bitmaps.bitmap_directory_size);
    TRY(image_.store().read(bitmaps.bitmap_directory_offset.value, bytes).in(where));
    entries_ = TRY(decode_bitmap_directory(bytes, bitmaps.nb_bitmaps, geometry).in(where));
    directory_ = bitmaps.bitmap_directory_offset;
    directory_clusters_ = {geometry.cluster_of(directory_), geometry.clusters_for(bytes.size())};
    if (!image_.metadata().add(directory_clusters_))
        return finding(Finding::tables_overlap, where);
    for (std::size_t i = 0; i < entries_.size(); ++i)
        open_bitmap(i);
    return {};
}

// What we do not track we only keep: its clusters are noted where it has a
// form, and it forbids nothing.
void Tracker::open_bitmap(std::size_t i)
{
    BitmapDirectoryEntry &e = entries_[i];
    const bool tracked = e.enabled() && !e.in_use();  // B5
    Result<void> result;
    if (e.finding) {
        result = finding(*e.finding, "directory entry at " + hex(directory_.value + e.position));
    } else {
        auto bitmap = std::make_unique<EnabledBitmap>(image_, i, e, region_bytes_);
        result = bitmap->stored.open();
        if (result && tracked)
            enabled_.push_back(std::move(bitmap));
    }
    not_followed_.resize(std::max(not_followed_.size(), i + 1));
    if (result)
        return;
    not_followed_[i] = result.error();
    if (tracked && !why_read_only_)
        why_read_only_ = std::move(result).error().in(quoted(e.name));
}

const BitmapDirectoryEntry *Tracker::find(const std::string &name) const
{
    const auto found = std::find_if(entries_.begin(), entries_.end(),
                                    [&](const auto &e) { return e.name == name; });
    return found == entries_.end() ? nullptr : &*found;
}

Result<void> Tracker::check(const BitmapRequest &request) const
{
    const Geometry &geometry = image_.geometry();
    const std::uint32_t granularity_bits =
        request.granularity_bits.value_or(default_granularity_bits(geometry));
    const std::uint64_t disk_size = std::max(image_.disk_size(), request.disk_size_min);
    std::size_t absent = 0;
    for (const std::string &name : request.names) {
        const std::string context = "bitmap='" + name + "'";
        if (geometry.version < 3)
            return Error(Errc::unsupported,
                         context + ": version 2 images cannot keep bitmaps; 'qemu-img amend "
                                   "-o compat=1.1' makes it version 3");
        const BitmapDirectoryEntry *e = find(name);
        if (!e) {
            TRY(check_bitmap_limits(disk_size, granularity_bits, geometry).in(context));
            ++absent;
        } else if (e->in_use()) {
            return Error(Errc::busy, context + ": it is inconsistent (in_use: it was not stored "
                                               "when the image was last used); 'qemu-img bitmap "
                                               "--remove' makes room for a new one");
        } else if (!e->enabled()) {
            return Error(Errc::busy, context + ": it is disabled, perhaps the frozen record of a "
                                               "backup; 'qemu-img bitmap --enable' enables it");
        } else if (e->finding) {
            return finding(*e->finding).in(context);
        }
    }
    if (entries_.size() + absent > limits::bitmaps_max)
        return Error(Errc::invalid, "an image cannot have more than 65535 bitmaps");
    if (absent != 0) {
        HeaderArea area = image_.header().area();
        area.extensions = with_bitmaps_extension(area.extensions, BitmapsExtension());
        TRY(encode_header_area(area, {}).in("bitmap=: no room for the bitmaps extension"));
    }
    return {};
}

Result<void> Tracker::make(const BitmapRequest &request)
{
    TRY(check(request));
    std::vector<BitmapDirectoryEntry> entries = entries_;
    Aside aside(image_);
    for (const std::string &name : request.names) {
        const auto same_name = [&](const auto &e) { return e.name == name; };
        if (std::none_of(entries.begin(), entries.end(), same_name))
            entries.push_back(TRY(make_entry(name, request.granularity_bits, aside)));
    }
    return entries.size() == entries_.size() ? Result<void>() : publish(entries, aside);
}

Result<BitmapDirectoryEntry> Tracker::make_entry(const std::string &name,
                                                 std::optional<std::uint32_t> granularity_bits,
                                                 Aside &aside)
{
    const Geometry &geometry = image_.geometry();
    BitmapDirectoryEntry e;
    e.name = name;
    e.flags = bitmap_flags::auto_;
    e.granularity_bits =
        static_cast<std::uint8_t>(granularity_bits.value_or(default_granularity_bits(geometry)));
    const BitmapSize size = BitmapSize::of(image_.disk_size(), e.granularity_bits, geometry);
    e.bitmap_table_size = static_cast<std::uint32_t>(size.table_entries);
    e.bitmap_table_offset = TRY(aside.write(Buffer(size.table_entries * 8)));
    return e;
}

// A new directory, aside; then the header names it (H1), and the old one goes.
Result<void> Tracker::publish(std::vector<BitmapDirectoryEntry> entries, Aside &aside)
{
    const Buffer bytes = encode_bitmap_directory(entries);
    BitmapsExtension bitmaps;
    bitmaps.nb_bitmaps = static_cast<std::uint32_t>(entries.size());
    bitmaps.bitmap_directory_size = bytes.size();
    bitmaps.bitmap_directory_offset = TRY(aside.write(bytes).in("bitmap directory"));
    aside.replace(directory_clusters_);
    TRY(aside.commit([&](HeaderArea &area) {
        area.extensions = with_bitmaps_extension(area.extensions, bitmaps);
        area.header.autoclear_features |= autoclear::bitmaps;
    }));

    const Geometry &geometry = image_.geometry();
    image_.metadata().remove(directory_clusters_);
    directory_ = bitmaps.bitmap_directory_offset;
    directory_clusters_ = {geometry.cluster_of(directory_), geometry.clusters_for(bytes.size())};
    image_.metadata().add(directory_clusters_);
    note_.clear();
    const std::size_t known = std::exchange(entries_, std::move(entries)).size();
    for (std::size_t i = known; i < entries_.size(); ++i)
        open_bitmap(i);
    if (why_read_only_)
        return *why_read_only_;
    return {};
}

// The word lies in one sector, because entries begin at multiples of 8.
Result<void> Tracker::write_flags(const EnabledBitmap &bitmap, bool in_use)
{
    const BitmapDirectoryEntry &e = entries_[bitmap.index];
    const on_disk::be32 flags(in_use ? e.flags | bitmap_flags::in_use : e.flags);
    return image_.store()
        .write(directory_.value + e.flags_position(), {flags.data(), sizeof flags})
        .in(quoted(e.name) + ", flags");
}

// Those of all that are kept true.
Result<void> Tracker::set_in_use(bool in_use)
{
    for (const auto &bitmap : enabled_)
        if (!bitmap->lost)
            TRY(write_flags(*bitmap, in_use));
    return image_.store().flush();
}

// B7: there was no room even to say that everything is dirty.
Result<void> Tracker::give_up(EnabledBitmap &bitmap)
{
    log_warning(quoted(bitmap.name) + " is lost: no room to keep it true; it is marked in_use");
    TRY(write_flags(bitmap, true));
    return image_.store().flush();
}

Result<void> Tracker::before_change(Range bytes)
{
    bool durable = true;
    for (const auto &bitmap : enabled_)
        if (!bitmap->lost.load(std::memory_order_relaxed))
            durable &= TRY(bitmap->bits.mark(bytes.touched(bitmap->granularity))
                               .in(quoted(bitmap->name)));
    if (durable)
        return {};
    return sync_ == BitmapSync::durable ? arming_.arm(bytes) : mark_all();
}

Result<void> Tracker::mark_all()
{
    if (in_use_.load(std::memory_order_acquire))
        return {};
    Locked lock(marks_);
    if (in_use_)
        return {};
    for (const auto &bitmap : enabled_)
        bitmap->stored.reserve_last();
    may_be_in_use_ = true;
    TRY(set_in_use(true));  // B1
    in_use_ = true;
    return {};
}

// Bits that are set before their change are no lie, so nothing needs to be
// marked in_use for this.
Result<void> Tracker::store()
{
    Locked lock(marks_);
    TRY(arming_.store());
    if (!may_be_in_use_)
        return {};
    TRY(set_in_use(false));  // B8
    in_use_ = false;
    may_be_in_use_ = false;
    return {};
}

std::vector<std::string> Tracker::report() const
{
    std::vector<std::string> lines;
    if (!note_.empty())
        lines.push_back(note_);
    for (const BitmapDirectoryEntry &e : entries_) {
        std::string state = !e.enabled() ? "disabled, kept as it is" : "enabled, tracked";
        if (e.in_use())
            state = "inconsistent (in_use), kept as it is; 'qemu-img bitmap --remove' removes it";
        else if (e.finding)
            state = "cannot be used: " + std::string(sentence_of(*e.finding));
        lines.push_back(quoted(e.name) + ", granularity " + std::to_string(e.granularity()) +
                        ": " + state);
    }
    return lines;
}

}  // namespace qcow2
