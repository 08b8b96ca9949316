// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/maintenance.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/structure/operations.h"

namespace qcow2 {

namespace {

int exit_code_of(const CheckReport &report)
{
    if (report.sound())
        return Maintenance::done;
    return report.leaks_at_worst() ? Maintenance::leaks : Maintenance::corrupt;
}

// Corruption so near to the header that nothing can be followed is a result, too.
Result<Maintenance::Outcome> cannot_be_followed(Error error)
{
    if (error.code != Errc::corrupt)
        return error;
    return Maintenance::Outcome{
        formatted("{}\nthe rest cannot be checked\n", printable(error.what)), Maintenance::corrupt};
}

// A bitmap is nothing that could be repaired.
std::string text_of(const CheckReport &report)
{
    const bool bitmaps = std::ranges::any_of(report.findings, [](const CheckFinding &found) {
        return name_of(found.finding).starts_with("bitmap") &&
               found.finding != Finding::bitmap_directory_padding;
    });
    return report.text() + (bitmaps ? "bitmap-remove=NAME removes a bitmap that nobody can use, "
                                      "bitmap-remove-all=yes all of them\n"
                                    : "");
}

Result<Maintenance::Outcome> report(ByteStore &store)
{
    auto found = check(store);
    if (!found)
        return cannot_be_followed(std::move(found).error());
    return Maintenance::Outcome{text_of(*found), exit_code_of(*found)};
}

Result<Maintenance::Outcome> put_right(ByteStore &store, RepairKind kind)
{
    auto repaired = repair(store, kind);
    if (!repaired)
        return cannot_be_followed(std::move(repaired).error());
    std::string text = repaired->changed ? repaired->before.text() : text_of(repaired->before);
    if (repaired->changed)
        text += formatted("repaired; now:\n{}", text_of(repaired->after));
    return Maintenance::Outcome{text, exit_code_of(repaired->after)};
}

// As it can be typed: "100G", "5000192".
std::string exact_size(std::uint64_t bytes)
{
    std::uint64_t number = bytes;
    std::string_view units = "KMGT";
    char unit = '\0';
    while (!units.empty() && number != 0 && number % 1024 == 0) {
        number /= 1024;
        unit = units.front();
        units.remove_prefix(1);
    }
    return unit ? formatted("{}{}", number, unit) : std::to_string(number);
}

// A number without its suffix is a size, too, and leaves next to nothing of a disk: so little
// is asked for in another way.
Result<void> check_shrinking(const Shrinking &shrinking, std::uint64_t size)
{
    constexpr std::uint64_t unlikely_size = 1 << 20, unlikely_part = 100;
    const std::string is = formatted("the disk has {}", exact_size(size));
    if (shrinking.from && *shrinking.from != size)
        return Error(Errc::invalid, "{}, not {}; nothing was cut", is, exact_size(*shrinking.from));
    if (!shrinking.from && (shrinking.to < unlikely_size || shrinking.to < size / unlikely_part))
        return Error(
            Errc::invalid,
            "{}, and {} would be left; was a suffix (K, M, G, T) forgotten? If that is meant, say "
            "from which size to which: qcow2-shrink={}:{}",
            is, exact_size(shrinking.to), exact_size(size), exact_size(shrinking.to));
    return {};
}

// How much behind a place of the disk does not read as zeros.
std::string data_behind(Disk &disk, std::uint64_t place)
{
    std::uint64_t data = 0;
    while (place < disk.size()) {
        const auto extents = disk.block_status(GuestOffset(place), disk.size() - place);
        if (!extents)
            return formatted("what cannot be found out: {}", extents.error().what);
        for (const Extent &extent : *extents) {
            data += extent.zero ? 0 : extent.length;
            place += extent.length;
        }
    }
    return formatted("{} bytes of data", data);
}

Result<Maintenance::Outcome> shrink(ByteStore &store, const DiskOptions &options,
                                    const std::string &key, const Shrinking &shrinking)
{
    const auto disk = TRY(Disk::open(store, options));
    const std::uint64_t size = disk->size();
    const std::string was = formatted("the disk has {} bytes", size);
    if (size <= shrinking.to)
        return Maintenance::Outcome{formatted("{}: nothing to cut\n", was)};
    TRY(check_shrinking(shrinking, size));
    TRY(disk->check_resize(shrinking.to));
    // Said before it is done, for it cannot be undone.
    log_warning("{}: {}; the last {} are cut off, and with them {}", key, was, size - shrinking.to,
                data_behind(*disk, shrinking.to));
    TRY(disk->resize(shrinking.to));
    const std::string is = formatted(", and now {}\n", disk->size());
    TRY(disk->close());
    return Maintenance::Outcome{was + is};
}

Result<Maintenance::Outcome> revert(ByteStore &store, const DiskOptions &options,
                                    const std::string &key, const std::string &id_or_name)
{
    const auto disk = TRY(Disk::open(store, options));
    const SnapshotTable table{TRY(disk->snapshots())};
    const std::string snapshot = words_for(*TRY(find_snapshot(table, id_or_name)));
    const std::uint64_t size = disk->size();
    log_warning("{}: the disk becomes what {} is; what it has now is lost where no other snapshot "
                "has it",
                key, snapshot);
    TRY(disk->revert(id_or_name));
    std::string text = formatted("the disk is now what {} is", printable(snapshot));
    if (disk->size() != size)
        text += formatted(", with {} bytes; it had {}", disk->size(), size);
    text += "\n";
    for (const ReportLine &line : disk->report(true))
        text += printable(line.text) + "\n";
    TRY(disk->close());
    return Maintenance::Outcome{text};
}

// What is lost with the bitmap of this name, or with all of them; lines.
std::string what_is_lost(const Disk &disk, const std::optional<std::string> &name)
{
    std::string text;
    for (const ReportLine &line : disk.report(true))
        if (!name || line.text.starts_with(formatted("{},", words_for_bitmap(*name))))
            text += formatted("removed: {}\n", line.text);
    return text.empty() ? "removed: bitmaps whose directory could not be read\n" : text;
}

Result<Maintenance::Outcome> remove_bitmaps(ByteStore &store, const DiskOptions &options,
                                            const std::optional<std::string> &name)
{
    const auto disk = TRY(Disk::open(store, options));
    std::string text = what_is_lost(*disk, name);
    Result<void> done = disk->restructure(
        [&](Image &image) { return name ? drop_bitmap(image, *name) : drop_all_bitmaps(image); });
    // All are gone already: done twice is done.
    if (!name && !done && done.error().code == Errc::not_found)
        text = done.error().what + "\n";
    else
        TRY(std::move(done));
    TRY(disk->close());
    return Maintenance::Outcome{text};
}

}  // namespace

Maintenance remove_maintenance(std::string key, std::optional<std::string> name)
{
    Maintenance maintenance;
    maintenance.key = std::move(key);
    maintenance.changes = true;
    maintenance.mends_bitmaps = true;
    maintenance.work = [name = std::move(name)](ByteStore &store, const DiskOptions &options) {
        return remove_bitmaps(store, options, name);
    };
    return maintenance;
}

Maintenance revert_maintenance(std::string key, std::string id_or_name)
{
    Maintenance maintenance;
    maintenance.key = std::move(key);
    maintenance.changes = true;
    maintenance.work = [key = maintenance.key, id_or_name = std::move(id_or_name)](
                           ByteStore &store, const DiskOptions &options) {
        return revert(store, options, key, id_or_name);
    };
    return maintenance;
}

Maintenance shrink_maintenance(std::string key, const Shrinking &shrinking)
{
    Maintenance maintenance;
    maintenance.key = std::move(key);
    maintenance.changes = true;
    maintenance.work = [key = maintenance.key, shrinking](ByteStore &store,
                                                          const DiskOptions &options) {
        return shrink(store, options, key, shrinking);
    };
    return maintenance;
}

Maintenance check_maintenance(std::string key, std::optional<RepairKind> kind)
{
    Maintenance maintenance;
    maintenance.key = std::move(key);
    maintenance.changes = kind.has_value();
    maintenance.repaired_first = false;
    maintenance.work = [kind](ByteStore &store, const DiskOptions &) {
        return kind ? put_right(store, *kind) : report(store);
    };
    return maintenance;
}

}  // namespace qcow2
