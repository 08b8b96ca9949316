// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/bitmap_changes.h"

#include <algorithm>

#include "core/bitmap/bitmap_data.h"
#include "core/format/findings.h"
#include "core/structure/new_bitmap_data.h"
#include "core/structure/new_bitmap_directory.h"

namespace qcow2 {

namespace {

// A foreign one is kept, and neither used nor changed: nobody knows what it is.
Result<void> check_not_foreign(const BitmapDirectoryEntry &entry)
{
    return entry.finding && !entry.in_use()
               ? finding(*entry.finding).in(words_for_bitmap(entry.name))
               : Result<void>();
}

// Bits of another granularity: what touches is dirty.
BitVector scaled(const BitVector &from, std::uint32_t from_bits, std::uint64_t to_size,
                 std::uint32_t to_bits)
{
    BitVector to(to_size);
    for (std::uint64_t begin = from.next_set(0); begin < from.size();) {
        const std::uint64_t end = from.next_clear(begin);
        const Range bytes{begin << from_bits, end << from_bits};
        to.set({bytes.begin >> to_bits,
                std::min(div_ceil(bytes.end, std::uint64_t(1) << to_bits), to_size)});
        begin = from.next_set(end);
    }
    return to;
}

}  // namespace

Result<BitmapDirectoryEntry> new_bitmap_entry(const Image &image, const NewBitmap &bitmap,
                                              const BitmapDirectoryEntry *other)
{
    const Geometry &geometry = image.geometry();
    if (geometry.version < 3)
        return Error(Errc::unsupported, "version 2 images cannot keep bitmaps; 'qemu-img amend -o "
                                        "compat=1.1' makes it version 3");
    TRY(check_bitmap_name(bitmap.name));
    if (other && other->name == bitmap.name)
        return Error(Errc::exists, "{} exists already", words_for_bitmap(bitmap.name));
    if (other)
        return Error(Errc::exists,
                     "{} cannot be made: there is one whose name has a NUL "
                     "behind that, which QEMU takes for the same name",
                     words_for_bitmap(bitmap.name));
    const std::uint32_t granularity_bits =
        bitmap.granularity_bits.value_or(default_granularity_bits(geometry));
    TRY(check_bitmap_limits(image.disk_size(), granularity_bits, geometry)
            .in(words_for_bitmap(bitmap.name)));
    BitmapDirectoryEntry entry;
    entry.name = bitmap.name;
    entry.flags = bitmap.enabled ? bitmap_flags::auto_ : 0;
    entry.granularity_bits = static_cast<std::uint8_t>(granularity_bits);
    return entry;
}

// It lies in one sector, because entries begin at multiples of 8. Until the old
// word is back after a failure, nobody knows which one the file has.
Result<void> change_bitmap_flags(Image &image, const BitmapDirectory &directory,
                                 const BitmapDirectoryEntry &entry, std::uint32_t new_flags)
{
    const std::uint64_t place = directory.offset().value + entry.flags_position();
    const auto write_flags = [&](std::uint32_t flags) {
        const on_disk::be32 word(flags);
        return image.store()
            .write_durable(place, {word.data(), sizeof word})
            .in("{}, flags", words_for_bitmap(entry.name));
    };
    Result<void> written = write_flags(new_flags);
    if (!written)
        if (const auto restored = write_flags(entry.flags); !restored)
            image.store().fail(Error(restored.error()).in("the old flags could not be put back"));
    return written;
}

BitmapChanges::BitmapChanges(Image &image, BitmapDirectory old)
    : image_(image), old_(std::move(old))
{
    for (std::size_t i = 0; i < old_.entries.size(); ++i)
        name(planned_.emplace_back(Planned{.entry = old_.entries[i], .old = i}));
}

Result<BitmapChanges> BitmapChanges::of(Image &image)
{
    return BitmapChanges(image, TRY(BitmapDirectory::load(image)));
}

Result<void> BitmapChanges::add(const BitmapStep &step)
{
    return std::visit([this](const auto &s) { return plan(s); }, step);
}

BitmapChanges::Planned *BitmapChanges::planned(std::string_view name) const
{
    const auto first = names_.lower_bound(name);
    return first != names_.end() && first->first == name ? first->second : nullptr;
}

const BitmapDirectoryEntry *BitmapChanges::find(std::string_view name) const
{
    const Planned *bitmap = planned(name);
    return bitmap ? &bitmap->entry : nullptr;
}

Result<BitmapChanges::Planned *> BitmapChanges::existing(const std::string &name)
{
    TRY(old_.check_up_to_date().in(words_for_bitmap(name)));
    Planned *bitmap = planned(name);
    return bitmap ? Result<Planned *>(bitmap) : no_such_bitmap(name);
}

// What its bits say is known, and may be changed.
Result<BitmapChanges::Planned *> BitmapChanges::consistent(const std::string &name)
{
    Planned *bitmap = TRY(existing(name));
    if (bitmap->entry.in_use())
        return Error(Errc::busy,
                     "{} is inconsistent (in_use: it was not stored when the "
                     "image was last used); it can only be removed, or made valid by "
                     "bitmap-recover=all-dirty",
                     words_for_bitmap(name));
    TRY(check_not_foreign(bitmap->entry));
    return bitmap;
}

Result<void> BitmapChanges::plan(const AddBitmap &step)
{
    TRY(old_.check_up_to_date());
    // Behind a name come those that have a NUL behind it.
    const auto at = names_.lower_bound(step.bitmap.name);
    const BitmapDirectoryEntry *other = at == names_.end() ? nullptr : &at->second->entry;
    if (other && other->name_for_qemu() != step.bitmap.name)
        other = nullptr;
    name(planned_.emplace_back(Planned{.entry = TRY(new_bitmap_entry(image_, step.bitmap, other)),
                                       .old = {},
                                       .content = Content::uniform,
                                       .value = step.bitmap.all_dirty}));
    return {};
}

Result<void> BitmapChanges::plan(const RemoveBitmap &step)
{
    Planned *bitmap = TRY(existing(step.name));
    TRY(check_not_foreign(bitmap->entry));
    bitmap->removed = true;
    bitmap->bits = BitVector(0);
    names_.erase(names_.lower_bound(step.name));
    return {};
}

Result<void> BitmapChanges::plan(const ClearBitmap &step)
{
    Planned *bitmap = TRY(consistent(step.name));
    bitmap->content = Content::uniform;
    bitmap->value = false;
    bitmap->bits = BitVector(0);
    return {};
}

Result<void> BitmapChanges::plan(const MergeBitmaps &step)
{
    Planned *target = TRY(consistent(step.target));
    std::optional<BitVector> bits;
    for (const std::string &name : step.sources) {
        const Planned *source = TRY(consistent(name));
        if (source == target)
            continue;
        if (!bits)
            bits = TRY(bits_of(*target));
        const BitVector more = TRY(bits_of(*source));
        bits->or_with(scaled(more, source->entry.granularity_bits, bits->size(),
                             target->entry.granularity_bits));
    }
    if (!bits)
        return {};
    target->content = Content::bits;
    target->bits = std::move(*bits);
    return {};
}

Result<void> BitmapChanges::set_enabled(const std::string &name, bool enabled)
{
    Planned *bitmap = TRY(consistent(name));
    if (bitmap->entry.enabled() == enabled)
        return {};
    if (enabled)
        TRY(check_can_be_tracked(*bitmap).in(words_for_bitmap(name)));
    bitmap->entry.flags ^= bitmap_flags::auto_;
    return {};
}

// Once it is enabled, a bitmap that cannot be kept true makes the disk read-only.
Result<void> BitmapChanges::check_can_be_tracked(const Planned &bitmap)
{
    if (bitmap.content != Content::as_stored)
        return {};
    const BitmapDirectoryEntry &entry = bitmap.entry;
    const auto size = BitmapSize::of(image_.disk_size(), entry.granularity_bits, image_.geometry());
    if (entry.bitmap_table_size != size.table_entries)
        return finding(Finding::bitmap_table_size_wrong, "{} entries, not {}",
                       entry.bitmap_table_size, size.table_entries);
    return TRY(clusters())->check(entry);
}

Result<BitVector> BitmapChanges::bits_of(const Planned &bitmap) const
{
    switch (bitmap.content) {
    case Content::as_stored:
        return TRY(load_bits(image_, bitmap.entry).in(words_for_bitmap(bitmap.entry.name)));
    case Content::uniform:
        return BitVector(
            BitmapSize::of(image_.disk_size(), bitmap.entry.granularity_bits, image_.geometry())
                .bits,
            bitmap.value);
    case Content::bits: break;
    }
    return bitmap.bits;
}

Result<void> BitmapChanges::write(Aside &aside, const Planned &bitmap,
                                  BitmapDirectoryEntry &entry) const
{
    switch (bitmap.content) {
    case Content::as_stored: return {};
    case Content::uniform:
        return write_uniform_bits(aside, image_, image_.disk_size(), bitmap.value, entry);
    case Content::bits: break;
    }
    return write_bits(aside, image_, bitmap.bits, entry);
}

Result<BitmapClusters *> BitmapChanges::clusters()
{
    if (!clusters_)
        clusters_.emplace(TRY(BitmapClusters::of(image_, old_)));
    return &*clusters_;
}

// To know whose clusters are whose all tables are read: not where nothing goes.
Result<void> BitmapChanges::release_replaced(Aside &aside)
{
    for (const Planned &bitmap : planned_)
        if (bitmap.old && !keeps_table(bitmap))
            TRY(clusters())->release(aside, old_.entries[*bitmap.old]);
    return {};
}

Result<ImageHeader::Change> BitmapChanges::prepare(Aside &aside)
{
    TRY(release_replaced(aside));
    std::vector<BitmapDirectoryEntry> entries;
    for (const Planned &bitmap : planned_)
        if (!bitmap.removed)
            TRY(write(aside, bitmap, entries.emplace_back(bitmap.entry)));
    return write_bitmap_directory(aside, std::move(entries), old_.clusters());
}

std::vector<std::optional<std::size_t>> BitmapChanges::kept_tables() const
{
    std::vector<std::optional<std::size_t>> kept;
    for (const Planned &bitmap : planned_)
        if (!bitmap.removed)
            kept.push_back(keeps_table(bitmap) ? bitmap.old : std::nullopt);
    return kept;
}

bool BitmapChanges::flags_differ(const Planned &bitmap) const
{
    return bitmap.old && old_.entries[*bitmap.old].flags != bitmap.entry.flags;
}

bool BitmapChanges::empty() const
{
    return std::ranges::all_of(planned_, [this](const Planned &bitmap) {
        const bool never_there = bitmap.removed && !bitmap.old;
        return never_there || (keeps_table(bitmap) && !flags_differ(bitmap));
    });
}

// nullptr: more than that is to be written.
const BitmapChanges::Planned *BitmapChanges::only_flags_of_one() const
{
    const Planned *one = nullptr;
    for (const Planned &bitmap : planned_) {
        if (bitmap.removed && !bitmap.old)
            continue;
        if (!keeps_table(bitmap) || (one && flags_differ(bitmap)))
            return nullptr;
        if (flags_differ(bitmap))
            one = &bitmap;
    }
    return one;
}

Result<void> BitmapChanges::commit()
{
    if (empty())
        return {};
    if (const Planned *one = only_flags_of_one())
        return change_bitmap_flags(image_, old_, old_.entries[*one->old], one->entry.flags);
    Aside aside(image_);
    return aside.commit(TRY(prepare(aside)));
}

Result<void> change_bitmaps(Image &image, const std::vector<BitmapStep> &steps)
{
    BitmapChanges changes = TRY(BitmapChanges::of(image));
    for (const BitmapStep &step : steps)
        TRY(changes.add(step));
    return changes.commit();
}

}  // namespace qcow2
