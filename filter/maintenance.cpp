// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/maintenance.h"

#include <algorithm>

#include "core/bitmap/operations.h"
#include "core/check/check.h"

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
    return Maintenance::Outcome{error.what + "\nthe rest cannot be checked\n", Maintenance::corrupt};
}

// A bitmap is nothing that could be repaired.
std::string text_of(const CheckReport &report)
{
    const bool bitmaps = std::ranges::any_of(report.findings, [](const CheckFinding &found) {
        return name_of(found.finding).starts_with("bitmap") && found.finding != Finding::bitmap_directory_padding;
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
        text += "repaired; now:\n" + text_of(repaired->after);
    return Maintenance::Outcome{text, exit_code_of(repaired->after)};
}

Result<Maintenance::Outcome> shrink(ByteStore &store, const DiskOptions &options, std::uint64_t size)
{
    const auto disk = TRY(Disk::open(store, options));
    const std::string was = "the disk has " + std::to_string(disk->size()) + " bytes";
    if (disk->size() <= size)
        return Maintenance::Outcome{was + ": nothing to cut\n"};
    TRY(disk->check_resize(size));
    TRY(disk->resize(size));
    const std::string is = ", and now " + std::to_string(disk->size()) + "\n";
    TRY(disk->close());
    return Maintenance::Outcome{was + is};
}

Result<Maintenance::Outcome> revert(ByteStore &store, const DiskOptions &options,
                                    const std::string &id_or_name)
{
    const auto disk = TRY(Disk::open(store, options));
    const SnapshotTable table{TRY(disk->snapshots())};
    const std::string snapshot = words_for(*TRY(find_snapshot(table, id_or_name)));
    const std::uint64_t size = disk->size();
    TRY(disk->revert(id_or_name));
    std::string text = "the disk is now what " + snapshot + " is";
    if (disk->size() != size)
        text += ", with " + std::to_string(disk->size()) + " bytes; it had " + std::to_string(size);
    text += "\n";
    for (const ReportLine &line : disk->report(true))
        text += line.text + "\n";
    TRY(disk->close());
    return Maintenance::Outcome{text};
}

// What is lost with the bitmap of this name, or with all of them; lines.
std::string what_is_lost(const Disk &disk, const std::optional<std::string> &name)
{
    std::string text;
    for (const ReportLine &line : disk.report(true))
        if (!name || line.text.starts_with("bitmap " + quoted(*name) + ","))
            text += "removed: " + line.text + "\n";
    return text.empty() ? "removed: bitmaps whose directory could not be read\n" : text;
}

Result<Maintenance::Outcome> remove_bitmaps(ByteStore &store, const DiskOptions &options,
                                            const std::optional<std::string> &name)
{
    const auto disk = TRY(Disk::open(store, options));
    const std::string text = what_is_lost(*disk, name);
    TRY(disk->restructure([&](Image &image) { return name ? drop_bitmap(image, *name) : drop_all_bitmaps(image); }));
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
    maintenance.work = [id_or_name = std::move(id_or_name)](ByteStore &store, const DiskOptions &options) {
        return revert(store, options, id_or_name);
    };
    return maintenance;
}

Maintenance shrink_maintenance(std::string key, std::uint64_t size)
{
    Maintenance maintenance;
    maintenance.key = std::move(key);
    maintenance.changes = true;
    maintenance.work = [size](ByteStore &store, const DiskOptions &options) {
        return shrink(store, options, size);
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
