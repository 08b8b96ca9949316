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
        return "2^" + std::to_string(granularity_bits);
    std::uint64_t granularity = std::uint64_t(1) << granularity_bits;
    for (const char *unit : {"", "K", "M"}) {
        if (granularity % 1024 != 0)
            return std::to_string(granularity) + unit;
        granularity /= 1024;
    }
    return std::to_string(granularity) + "G";
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
        return {LogLevel::warning, std::string("inconsistent; ") + will_be_valid_words};
    std::string text =
        "inconsistent (in_use: whoever used the image last was not able to store it), kept as it "
        "is and not tracked; ";
    if (is_recoverable)
        text += "bitmap-recover=all-dirty makes it valid again with all bits set, ";
    return {LogLevel::warning, text + "'qemu-img bitmap --remove' removes it"};
}

// Of one that is not in_use. read: how dirty it is is told, too.
ReportLine state_of(Image &image, const BitmapDirectoryEntry &entry, ClusterSet *read)
{
    if (entry.finding)
        return {LogLevel::warning,
                "foreign, kept as it is and not used: " + std::string(sentence_of(*entry.finding))};
    const std::string state = entry.enabled() ? "enabled, tracked" : "disabled, kept as it is";
    if (!read)
        return {LogLevel::debug, state};
    const auto dirty = how_dirty(image, entry, read);
    if (!dirty)
        return {LogLevel::warning, "cannot be read: " + dirty.error().what};
    return {LogLevel::debug, state + "; dirty: " + std::to_string(dirty->granules) +
                                 (dirty->granules == 1 ? " granule, " : " granules, ") +
                                 std::to_string(dirty->bytes) + " bytes"};
}

std::string stale(const BitmapDirectory &directory, bool will_recover)
{
    std::string text = directory.stale();
    if (!directory.out_of_date())
        return text;
    if (directory.out_of_date()->unreadable)
        return text + ", and cannot be read: " + directory.out_of_date()->unreadable->what +
               "; bitmap-remove-all=yes removes them";
    std::string names;
    const auto &entries = directory.out_of_date()->entries;
    for (std::size_t i = 0; i < std::min(entries.size(), warnings_max); ++i)
        names += (names.empty() ? "" : ", ") + quote(entries[i].name);
    if (entries.size() > warnings_max)
        names += " and " + std::to_string(entries.size() - warnings_max) + " more";
    if (will_recover)
        return text + ": " + names + "; " + will_be_valid_words;
    return text + ", kept as they are and not tracked: " + names + "; " +
           std::string(out_of_date_cure);
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
        line.text = "bitmap " + quote(entry.name) + ", granularity " +
                    size_in_words(entry.granularity_bits) + ": " + line.text;
        lines.push_back(std::move(line));
    }
    if (warnings > warnings_max && !how_much)
        lines.push_back({LogLevel::warning, "and " + std::to_string(warnings - warnings_max) +
                                                " more bitmaps like these; -v tells of each"});
    return lines;
}

}  // namespace qcow2
