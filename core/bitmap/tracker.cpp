// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/tracker.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/notice.h"
#include "core/base/rare.h"
#include "core/bitmap/directory.h"
#include "core/bitmap/recoverable.h"
#include "core/format/findings.h"

namespace qcow2 {

namespace {

// One bitmap that nobody can use must not take the disk.
constexpr const char *remove_all_words = "; bitmap-remove-all=yes removes the bitmaps";

}  // namespace

Tracker::Tracker(Image &image, BitmapSync sync, const ArmingLimits &limits)
    : image_(image),
      sync_(sync),
      region_bytes_(limits.region_bytes),
      arming_(image, enabled_, limits, [this](EnabledBitmap &bitmap) { return give_up(bitmap); })
{
}

Result<void> Tracker::open()
{
    if (!TRY(open_directory({})))
        return {};
    TableBuffer buffer;
    for (std::size_t i = 0; i < entries_.size(); ++i)
        note_finding(i, open_bitmap(i, buffer));
    return {};
}

Result<void> Tracker::open_after(Tracker &before, const KeptTables &kept)
{
    if (!TRY(open_directory(before.directory_)))
        return {};
    INVARIANT(kept.size() == entries_.size());
    std::vector<std::unique_ptr<EnabledBitmap>> old(before.entries_.size());
    for (auto &bitmap : before.enabled_)
        old[bitmap->index] = std::move(bitmap);
    TableBuffer buffer;
    for (std::size_t i = 0; i < entries_.size(); ++i)
        if (!kept[i])
            note_finding(i, open_bitmap(i, buffer));
        else if (const auto &why_not = before.not_followed_[*kept[i]])
            note_finding(i, *why_not);
        else
            note_finding(i, take_over(i, std::move(old[*kept[i]]), buffer));
    return {};
}

void Tracker::take_bits_of(Tracker &before)
{
    for (const auto &bitmap : enabled_) {
        EnabledBitmap *old = before.tracked(bitmap->name);
        if (!old || before.entries_[old->index].bitmap_table_offset !=
                        entries_[bitmap->index].bitmap_table_offset)
            continue;
        bitmap->bits.take_over(old->bits);
        bitmap->next_to_cool = old->next_to_cool;
        bitmap->armings_lately = old->armings_lately;
    }
}

// False: nothing that it says can be used. noted: where it stands whose clusters are noted
// as metadata already.
Result<bool> Tracker::open_directory(HostOffset noted)
{
    auto directory = BitmapDirectory::load(image_);
    if (!directory) {
        if (directory.error().code == Errc::io)
            return directory.error();
        why_read_only_ = Error(directory.error().code, directory.error().what + remove_all_words);
        return false;
    }
    directory_ = directory->offset();
    directory_clusters_ = directory->clusters();
    found_given_up_ = has_recoverable_given_up(*directory, image_);
    entries_ = std::move(directory->entries);
    not_followed_.resize(entries_.size());
    if (directory_ == noted || image_.metadata().add(directory_clusters_))
        return true;
    why_read_only_ =
        finding(Finding::tables_overlap, "bitmap directory at {:#x}", directory_.value);
    why_read_only_->what += remove_all_words;
    return false;
}

// B5
bool Tracker::is_tracked(std::size_t i) const
{
    return entries_[i].enabled() && !entries_[i].in_use();
}

// What we do not track we only keep: its clusters are noted where it has a
// form, and it forbids nothing.
Result<void> Tracker::open_bitmap(std::size_t i, TableBuffer &buffer)
{
    const BitmapDirectoryEntry &e = entries_[i];
    if (e.finding)
        return finding(*e.finding, "directory entry at {:#x}", directory_.value + e.position);
    auto bitmap = std::make_unique<EnabledBitmap>(image_, i, e, region_bytes_);
    TRY(bitmap->stored.open(buffer));
    if (is_tracked(i))
        enabled_.push_back(std::move(bitmap));
    return {};
}

// One whose table is where it was. bitmap: as it was tracked; nullptr: it was not.
Result<void> Tracker::take_over(std::size_t i, std::unique_ptr<EnabledBitmap> bitmap,
                                TableBuffer &buffer)
{
    if (!is_tracked(i))
        return {};
    if (!bitmap || bitmap->lost) {
        bitmap = std::make_unique<EnabledBitmap>(image_, i, entries_[i], region_bytes_);
        TRY(bitmap->stored.open_noted(buffer));
    }
    bitmap->index = i;
    enabled_.push_back(std::move(bitmap));
    return {};
}

void Tracker::note_finding(std::size_t i, const Result<void> &opened)
{
    if (opened)
        return;
    not_followed_[i] = opened.error();
    if (is_tracked(i) && !why_read_only_)
        why_read_only_ = Error(opened.error().code, "{}: {}; bitmap-remove=NAME removes one bitmap",
                               words_for_bitmap(entries_[i].name), opened.error().what);
}

std::vector<EnabledBitmap *> Tracker::tracked() const
{
    std::vector<EnabledBitmap *> tracked(entries_.size());
    for (const auto &bitmap : enabled_)
        tracked[bitmap->index] = bitmap->lost ? nullptr : bitmap.get();
    return tracked;
}

EnabledBitmap *Tracker::tracked(std::string_view name) const
{
    for (const auto &bitmap : enabled_)
        if (bitmap->name == name)
            return bitmap->lost ? nullptr : bitmap.get();
    return nullptr;
}

std::vector<BitmapDirectoryEntry> Tracker::entries() const
{
    std::vector<BitmapDirectoryEntry> entries = entries_;
    for (const auto &bitmap : enabled_)
        if (bitmap->lost)
            entries[bitmap->index].flags |= bitmap_flags::in_use;
    return entries;
}

// The word lies in one sector, because entries begin at multiples of 8.
Result<void> Tracker::write_flags(const EnabledBitmap &bitmap, bool in_use)
{
    const BitmapDirectoryEntry &e = entries_[bitmap.index];
    const on_disk::be32 flags(in_use ? e.flags | bitmap_flags::in_use : e.flags);
    return image_.store()
        .write(directory_.value + e.flags_position(), {flags.data(), sizeof flags})
        .in("{}, flags", words_for_bitmap(e.name));
}

// Those of all that are kept true.
Result<void> Tracker::set_in_use(bool in_use)
{
    for (const auto &bitmap : enabled_)
        if (!bitmap->lost)
            TRY(write_flags(*bitmap, in_use));
    return image_.store().flush();
}

// B7: there is no room even to say that everything is dirty. Durable when it returns:
// who sees that the bitmap is lost changes the disk without a look at it.
Result<void> Tracker::give_up(EnabledBitmap &bitmap)
{
    log_warning("{} is given up: no room to keep it true. It is marked in_use, and "
                "becomes valid again, with all bits set, when there is room",
                words_for_bitmap(bitmap.name));
    notify({Notice::Kind::bitmap_given_up, bitmap.name, "no room to keep it true"});
    TRY(write_flags(bitmap, true));
    return image_.store().flush();
}

bool Tracker::gave_up() const
{
    return found_given_up_ ||
           std::ranges::any_of(enabled_, [](const auto &bitmap) { return bitmap->lost.load(); });
}

// Zeros are written: a file may be longer than its file system has room for.
Result<bool> Tracker::has_room()
{
    const auto taken = image_.allocator().take(1);
    if (!taken)
        return taken.error().code == Errc::no_space ? Result<bool>(false) : taken.error();
    const Geometry &geometry = image_.geometry();
    const auto written = image_.store().write(geometry.offset_of(taken->run.first).value,
                                              Buffer(geometry.cluster_size()));
    image_.allocator().give_back(taken->run);
    if (!written && written.error().code != Errc::no_space)
        return written.error();
    if (written)
        RARE("a bitmap that was given up finds room again (B7)");
    return written.has_value();
}

// True if all of it is durable, or needs not be.
Result<bool> Tracker::mark(Range bytes)
{
    bool durable = true;
    for (const auto &bitmap : enabled_) {
        const Range granules = bytes.touched(bitmap->granularity);
        if (bitmap->since)
            bitmap->since->record(granules);
        if (bitmap->lost.load(std::memory_order_relaxed))
            continue;
        Result<bool> marked = bitmap->bits.mark(granules);
        if (!marked)
            return std::move(marked).error().in(words_for_bitmap(bitmap->name));
        durable &= *marked;
    }
    return durable;
}

// B7: what only waits for a flush is room, and data go first.
Result<void> Tracker::make_durable(Range bytes, const std::function<Result<void>()> &place)
{
    if (sync_ == BitmapSync::on_close)
        return mark_all();
    if (TRY(arming_.arm(bytes, false)))
        return {};
    TRY(image_.flush());
    if (TRY(arming_.arm(bytes, false)))
        return {};
    TRY(place());
    TRY(arming_.arm(bytes, true));
    return {};
}

// A bit without a cluster needs one (busy); with on-close it needs in_use.
Result<bool> Tracker::before_overwrite(Range bytes)
{
    if (TRY(mark(bytes)))
        return true;
    if (sync_ == BitmapSync::on_close)
        return false;
    const Result<bool> armed = arming_.arm(bytes, false);
    return armed || armed.error().code != Errc::busy ? armed : Result<bool>(false);
}

Result<void> Tracker::mark_all()
{
    if (in_use_.load(std::memory_order_acquire))
        return {};
    Locked lock(marks_);
    if (in_use_)
        return {};
    may_be_in_use_ = true;
    TRY(set_in_use(true));  // B1
    in_use_ = true;
    return {};
}

// Bits that are set before their change are no lie, so nothing needs to be
// marked in_use for this.
Result<void> Tracker::store()
{
    std::vector<EnabledBitmap *> all;
    for (const auto &bitmap : enabled_)
        all.push_back(bitmap.get());
    Locked lock(marks_);
    TRY(arming_.store(all, may_be_in_use_));
    if (!may_be_in_use_)
        return {};
    // If this fails, some marks may be off: the next change makes all anew (B1).
    in_use_ = false;
    TRY(set_in_use(false));  // B8
    may_be_in_use_ = false;
    return {};
}

std::vector<EnabledBitmap *> Tracker::kept_true(const std::vector<std::string> &names) const
{
    std::vector<EnabledBitmap *> found;
    for (const auto &bitmap : enabled_)
        if (!bitmap->lost && std::ranges::find(names, bitmap->name) != names.end())
            found.push_back(bitmap.get());
    return found;
}

// What is durable covers all that is precise; the file may say too much of the others.
Result<void> Tracker::store(const std::vector<std::string> &names)
{
    if (sync_ == BitmapSync::on_close)
        return store();
    return arming_.store(kept_true(names), false);
}

}  // namespace qcow2
