// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/report.h"

#include <algorithm>

#include "core/bitmap/bitmap_data.h"
#include "core/bitmap/recoverable.h"
#include "core/format/findings.h"

namespace qcow2 {

namespace {

std::string size_in_words(std::uint32_t granularity_bits)
{
    if (granularity_bits >= 40)
        return formatted("2^{}", granularity_bits);
    std::uint64_t granularity = std::uint64_t(1) << granularity_bits;
    for (const char *unit : {"", "K", "M"}) {
        if (granularity % 1024 != 0)
            return formatted("{}{}", granularity, unit);
        granularity /= 1024;
    }
    return formatted("{}G", granularity);
}

// Whoever has more of them does not read them all.
constexpr std::size_t warnings_max = FewWarnings::most;

constexpr const char *will_be_valid_words =
    "valid again, with all bits set, before the first client writes";

ReportLine inconsistent(const BitmapDirectory &directory, const BitmapDirectoryEntry &entry,
                        bool is_recoverable, bool will_recover)
{
    if (directory.given_up(entry) && is_recoverable)
        return {LogLevel::warning,
                "given up for lack of room (in_use), not tracked; valid again, with all bits set, "
                "when there is room"};
    if (will_recover && is_recoverable)
        return {LogLevel::warning, formatted("inconsistent; {}", will_be_valid_words)};
    return {LogLevel::warning,
            formatted(
                "inconsistent (in_use: whoever used the image last was not able to store it), "
                "kept as it is and not tracked; {}'qemu-img bitmap --remove' removes it",
                is_recoverable ? "bitmap-recover=all-dirty makes it valid again with all bits set, "
                               : "")};
}

// Of one that is not in_use. read: how dirty it is is told, too.
ReportLine state_of(Image &image, const BitmapDirectoryEntry &entry, ClusterSet *read)
{
    if (entry.finding)
        return {LogLevel::warning,
                formatted("foreign, kept as it is and not used: {}", sentence_of(*entry.finding))};
    const std::string state = entry.enabled() ? "enabled, tracked" : "disabled, kept as it is";
    if (!read)
        return {LogLevel::debug, state};
    const auto dirty = how_dirty(image, entry, read);
    if (!dirty)
        return {LogLevel::warning, formatted("cannot be read: {}", dirty.error().what)};
    return {LogLevel::debug,
            formatted("{}; dirty: {} {}, {} bytes", state, dirty->granules,
                      dirty->granules == 1 ? "granule" : "granules", dirty->bytes)};
}

std::string stale(const BitmapDirectory &directory, bool will_recover)
{
    std::string text = directory.stale();
    if (!directory.out_of_date())
        return text;
    if (directory.out_of_date()->unreadable)
        return formatted("{}, and cannot be read: {}; bitmap-remove-all=yes removes them", text,
                         directory.out_of_date()->unreadable->what);
    std::string names;
    const auto &entries = directory.out_of_date()->entries;
    for (std::size_t i = 0; i < std::min(entries.size(), warnings_max); ++i)
        names += (names.empty() ? "" : ", ") + quote(entries[i].name);
    if (entries.size() > warnings_max)
        names += formatted(" and {} more", entries.size() - warnings_max);
    if (will_recover)
        return formatted("{}: {}; {}", text, names, will_be_valid_words);
    return formatted("{}, kept as they are and not tracked: {}; {}", text, names, out_of_date_cure);
}

}  // namespace

std::vector<ReportLine> report_bitmaps(Image &image, bool how_much, bool will_recover)
{
    const auto directory = BitmapDirectory::load(image);
    if (!directory)
        return {};  // why the disk is read-only, or a failure of reading: told elsewhere
    std::vector<ReportLine> lines;
    if (!directory->stale().empty())
        lines.push_back({LogLevel::warning, stale(*directory, will_recover)});
    const RecoverableBitmaps recoverable = recoverable_bitmaps(*directory, image);
    std::size_t warnings = 0;
    ClusterSet read;
    for (const BitmapDirectoryEntry &entry : directory->entries) {
        ReportLine line =
            entry.in_use()
                ? inconsistent(*directory, entry, recoverable.count(&entry) != 0, will_recover)
                : state_of(image, entry, how_much ? &read : nullptr);
        if (line.level == LogLevel::warning && ++warnings > warnings_max && !how_much)
            continue;
        line.text = formatted("{}, granularity {}: {}", words_for_bitmap(entry.name),
                              size_in_words(entry.granularity_bits), line.text);
        lines.push_back(std::move(line));
    }
    if (warnings > warnings_max && !how_much)
        lines.push_back(
            {LogLevel::warning, formatted("and {} more bitmaps like these; -v tells of each",
                                          warnings - warnings_max)});
    return lines;
}

}  // namespace qcow2
