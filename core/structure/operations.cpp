// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/operations.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/rare.h"
#include "core/structure/bitmap_clusters.h"
#include "core/structure/new_bitmap_data.h"
#include "core/structure/new_bitmap_directory.h"

namespace qcow2 {

namespace {

// Of an unknown type nobody knows what its table is.
void release_or_leak(Aside &aside, BitmapClusters &clusters, const BitmapDirectoryEntry &entry,
                     FewWarnings &unknown)
{
    if (entry.type == bitmap_type_dirty_tracking)
        clusters.release(aside, entry);
    else
        unknown.say("{}: its clusters are not known, and leak", words_for_bitmap(entry.name));
}

Result<void> commit(Aside &aside, const BitmapDirectory &directory)
{
    return aside.commit(
        TRY(write_bitmap_directory(aside, directory.entries, directory.clusters())));
}

void say_valid_again(const BitmapDirectory &directory, const BitmapDirectoryEntry &entry,
                     const std::string &how, FewWarnings &given_up)
{
    const std::string valid_again = formatted(", and is valid again with all bits set{}", how);
    if (directory.given_up(entry))
        given_up.say("{} had been given up for lack of room{}", words_for_bitmap(entry.name),
                     valid_again);
    else
        log_debug("{} was {}{}", words_for_bitmap(entry.name),
                  directory.out_of_date() ? "out of date" : "inconsistent", valid_again);
}

Result<void> add(Image &image, Aside &aside, BitmapDirectory &directory, const NewBitmap &bitmap)
{
    BitmapDirectoryEntry entry =
        TRY(new_bitmap_entry(image, bitmap, directory.find_for_qemu(bitmap.name)));
    TRY(write_uniform_bits(aside, image, image.disk_size(), bitmap.all_dirty, entry));
    directory.entries.push_back(std::move(entry));
    return {};
}

void say_what_is_gone(const BitmapDirectory &directory)
{
    if (!directory.out_of_date())
        return;
    std::unordered_set<std::string_view> names;
    for (const BitmapDirectoryEntry &entry : directory.entries)
        names.insert(entry.name);
    FewWarnings gone;
    for (const BitmapDirectoryEntry &entry : directory.out_of_date()->entries)
        if (!names.contains(entry.name))
            gone.say("{} was out of date, could not be made valid again, and is gone",
                     words_for_bitmap(entry.name));
}

// H4: clusters that an extension names which is out of date are not freed.
Result<void> recover(Image &image, Aside &aside, BitmapDirectory &directory, Recoverable which)
{
    const BitmapDirectory old = directory;
    BitmapClusters clusters = TRY(BitmapClusters::of(image, old));
    for (auto &[entry, as_it_would_be] : list_recoverable(old, image, which)) {
        TRY(write_uniform_bits(aside, image, image.disk_size(), true, as_it_would_be)
                .in(words_for_bitmap(entry->name)));
        if (old.out_of_date()) {
            directory.entries.push_back(std::move(as_it_would_be));
        } else {
            clusters.release(aside, *entry);
            directory.entries[entry - old.entries.data()] = std::move(as_it_would_be);
        }
    }
    return {};
}

}  // namespace

Result<void> add_bitmaps(Image &image, const std::vector<NewBitmap> &bitmaps)
{
    return recover_and_add(image, false, bitmaps);
}

Result<void> remove_bitmap(Image &image, const std::string &name)
{
    return change_bitmaps(image, {RemoveBitmap{name}});
}

Result<void> drop_bitmap(Image &image, const std::string &name)
{
    BitmapDirectory directory = TRY(BitmapDirectory::load(image));
    BitmapDirectoryEntry *entry = TRY(directory.existing(name));
    for (BitmapDirectoryEntry &other : directory.entries)
        if (other.name == name && (other.finding || other.in_use()) && !entry->finding &&
            !entry->in_use())
            entry = &other;
    Aside aside(image);
    BitmapClusters clusters = TRY(BitmapClusters::of(image, directory));
    FewWarnings unknown;
    release_or_leak(aside, clusters, *entry, unknown);
    if (!TRY(clusters.own_directory()))
        directory.leak_old();
    directory.entries.erase(directory.entries.begin() + (entry - directory.entries.data()));
    return commit(aside, directory);
}

Result<void> drop_all_bitmaps(Image &image)
{
    const HeaderArea area = image.header().area();
    if (!area.find(ExtensionType::bitmaps) &&
        !(area.header.autoclear_features & autoclear::bitmaps))
        return Error(Errc::not_found, "the image has no bitmaps");
    auto loaded = BitmapDirectory::load(image);
    if (!loaded && loaded.error().code == Errc::io)
        return std::move(loaded).error();
    BitmapDirectory directory = loaded ? std::move(*loaded) : BitmapDirectory();
    Aside aside(image);
    BitmapClusters clusters = TRY(BitmapClusters::of(image, directory));
    FewWarnings unknown;
    for (const BitmapDirectoryEntry &entry : directory.entries)
        release_or_leak(aside, clusters, entry, unknown);
    if (!TRY(clusters.own_directory()))
        directory.leak_old();
    directory.entries.clear();
    return commit(aside, directory);
}

Result<void> enable_bitmap(Image &image, const std::string &name)
{
    return change_bitmaps(image, {EnableBitmap{name}});
}

Result<void> disable_bitmap(Image &image, const std::string &name)
{
    return change_bitmaps(image, {DisableBitmap{name}});
}

Result<void> clear_bitmap(Image &image, const std::string &name)
{
    return change_bitmaps(image, {ClearBitmap{name}});
}

Result<void> merge_bitmap(Image &image, const std::string &target, const std::string &source)
{
    return change_bitmaps(image, {MergeBitmaps{target, {source}}});
}

Result<void> recover_all_dirty(Image &image) { return recover_and_add(image, true, {}); }

namespace {

// While it is in_use nobody looks at what it says. Then the flags word makes it
// valid, each bitmap for itself. Returns how many are.
Result<std::size_t> recover_in_place(Image &image, const BitmapDirectory &directory,
                                     Recoverable which)
{
    std::size_t recovered = 0;
    FewWarnings given_up, still_inconsistent;
    BitmapClusters clusters = TRY(BitmapClusters::of(image, directory));
    for (const auto &[entry, as_it_would_be] : list_recoverable(directory, image, which)) {
        auto table = clusters.own_table(*entry);
        Result<void> set = table ? set_bits_in_place(image, *entry, std::move(*table))
                                 : Result<void>(table.error());
        if (set)
            set = change_bitmap_flags(image, directory, *entry, as_it_would_be.flags);
        if (!set && set.error().code != Errc::no_space)
            return set.error();
        recovered += set.has_value();
        if (set)
            say_valid_again(directory, *entry, ", in place", given_up);
        else if (!directory.given_up(*entry))
            still_inconsistent.say("{} stays inconsistent: {}", words_for_bitmap(entry->name),
                                   set.error().what);
    }
    return recovered;
}

// Of the one by the commit of the other, too.
Result<void> recover_and_add(Image &image, std::optional<Recoverable> which,
                             const std::vector<NewBitmap> &bitmaps)
{
    BitmapDirectory directory = TRY(BitmapDirectory::load(image));
    if (!which && bitmaps.empty())
        return {};
    if (!which)
        TRY(directory.check_up_to_date());
    const BitmapDirectory before = directory;
    Aside aside(image);
    if (which)
        TRY(recover(image, aside, directory, *which));
    for (const NewBitmap &bitmap : bitmaps)
        TRY(add(image, aside, directory, bitmap));
    if (directory.entries.empty())
        return {};  // nothing of what is out of date can be recovered: it stays
    TRY(commit(aside, directory));
    say_what_is_gone(directory);
    const std::size_t recovered = directory.entries.size() - bitmaps.size();
    FewWarnings given_up;
    for (std::size_t i = 0; i < directory.entries.size(); ++i)
        if (i >= recovered)
            log_debug("{} was made", words_for_bitmap(directory.entries[i].name));
        else if (i >= before.entries.size())
            say_valid_again(before, directory.entries[i], "", given_up);
        else if (before.entries[i].flags != directory.entries[i].flags)
            say_valid_again(before, before.entries[i], "", given_up);
    return {};
}

}  // namespace

Result<void> recover_in_place(Image &image)
{
    const BitmapDirectory directory = TRY(BitmapDirectory::load(image));
    if (directory.out_of_date())
        log_warning("{}, and stay so: there is no room for a new directory", directory.stale());
    else
        TRY(recover_in_place(image, directory, Recoverable::all));
    return {};
}

Result<void> recover_given_up(Image &image)
{
    if (!has_recoverable_given_up(TRY(BitmapDirectory::load(image)), image))
        return {};
    Result<void> done = recover_and_add(image, Recoverable::given_up, {});
    if (done || done.error().code != Errc::no_space)
        return done;
    RARE("bitmaps that were given up are recovered in place (B7)");
    const BitmapDirectory directory = TRY(BitmapDirectory::load(image));
    return TRY(recover_in_place(image, directory, Recoverable::given_up)) != 0 ? Result<void>()
                                                                               : done;
}

Result<void> recover_and_add(Image &image, bool recover, const std::vector<NewBitmap> &bitmaps)
{
    return recover_and_add(image, recover ? std::optional(Recoverable::all) : std::nullopt,
                           bitmaps);
}

}  // namespace qcow2
