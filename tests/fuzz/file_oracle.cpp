// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/fuzz/file_oracle.h"

#include <algorithm>

#include "core/check/check.h"
#include "core/check/walk.h"
#include "tests/fuzz/input.h"

namespace qcow2::test {

namespace {

constexpr std::uint64_t guest_piece = 64;  // so many bytes of the guest in a table are no accident

bool has_guest_piece(Bytes bytes)
{
    for (std::uint64_t begin = 0; begin + guest_piece <= bytes.size(); begin += guest_piece)
        if (std::ranges::all_of(sub(bytes, begin, guest_piece),
                                [](std::uint8_t byte) { return byte == guest_byte; }))
            return true;
    return false;
}

}  // namespace

FileOracle::FileOracle(MemoryStore &store) : store_(store)
{
    const auto report = qcow2::check(store_);
    sound_ = report && report->sound();
}

void FileOracle::require_now(bool is_so, const std::string &what, const std::string &more) const
{
    require(is_so, at + what, more);
}

FileOracle::Tables FileOracle::tables() const
{
    Tables found;
    ImageWalk walk(store_);
    if (!walk.run())
        return found;
    const std::uint64_t cluster_size = walk.geometry().cluster_size();
    ReferenceCounts::Words words;
    for (const std::uint64_t page : walk.counts().page_indices()) {
        walk.counts().page(page, words);
        for (std::uint64_t i = 0; i < words.size(); ++i) {
            if (!words[i].is(Use::sole) && !words[i].is(Use::l2_table))
                continue;
            const std::uint64_t cluster = page * ReferenceCounts::page_clusters + i;
            Buffer bytes(std::min<std::uint64_t>(cluster_size, 65536));
            require_now(store_.read(cluster * cluster_size, bytes).has_value(),
                        "the store cannot be read");
            found[cluster] = has_guest_piece(bytes);
        }
    }
    return found;
}

void FileOracle::check_tables() const
{
    for (const auto &[cluster, guest] : tables())
        if (const auto before = tables_before_.find(cluster); before != tables_before_.end())
            require_now(!guest || before->second, "the guest's bytes are in a table",
                        std::to_string(cluster));
}

void FileOracle::check(bool leaks) const
{
    if (!sound_)
        return;
    const auto report = qcow2::check(store_);
    require_now(report.has_value(), "the image cannot be checked");
    require_now(report->leaks_at_worst() && (leaks || report->leaks == 0), "not sound",
                report->text());
}

void FileOracle::check_repair(RepairKind kind) const
{
    MemoryStore copy(store_.image());
    const auto before = qcow2::check(copy);
    if (!before || !repair(copy, kind))
        return;
    const auto after = qcow2::check(copy);
    require_now(after.has_value(), "cannot be checked after a repair");
    require_now(after->corruptions <= before->corruptions && after->leaks <= before->leaks,
                "a repair has made it worse", before->text() + after->text());
    require_now(!sound_ || after->sound(), "a repair has left something", after->text());
    const auto again = repair(copy, kind);
    require_now(again && !again->changed, "a second repair has something to do", after->text());
}

}  // namespace qcow2::test
