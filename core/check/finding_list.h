// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FindingList: what a walk through an image, or a comparison, has found: all of
// it counted, of each kind the first few kept. One thread.

#pragma once

#include <array>
#include <string>
#include <utility>

#include "core/check/check.h"

namespace qcow2 {

class FindingList {
public:
    void add(Finding finding, std::string place, std::uint64_t count = 1)
    {
        add_lazily(
            finding, [&] { return std::move(place); }, count);
    }

    // For what may happen often: the place is only put into words if it is kept.
    template <class Words>
    void add_lazily(Finding finding, Words words, std::uint64_t count = 1)
    {
        (finding == Finding::refcount_too_high ? report_.leaks : report_.corruptions) += count;
        report_.counts[static_cast<std::size_t>(finding)] += count;
        std::size_t &kept = kept_[static_cast<std::size_t>(finding)];
        if (kept == CheckReport::findings_max)
            return;
        ++kept;
        report_.findings.push_back({finding, words(), count});
    }

    template <class Words>
    void note_lazily(Words words)
    {
        if (report_.notes.size() < CheckReport::notes_max)
            report_.notes.push_back(words());
        else
            ++report_.more_notes;
    }
    void note(std::string text)
    {
        note_lazily([&] { return std::move(text); });
    }

    const CheckReport &report() const { return report_; }

private:
    CheckReport report_;
    std::array<std::size_t, finding_kinds> kept_{};  // how many of each are in the report
};

}  // namespace qcow2
