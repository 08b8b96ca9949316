// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/check.h"

#include "core/base/log.h"
#include "core/check/walk.h"

namespace qcow2 {

namespace {

// Refcounts against names.
class Comparison {
public:
    explicit Comparison(ImageWalk &walk)
        : findings_(walk.findings()), cluster_bits_(walk.geometry().cluster_bits)
    {
    }

    // In ascending order.
    void take(std::uint64_t cluster, std::uint64_t refcount, ReferenceCounts::Word used);
    void end_run();

private:
    FindingList &findings_;
    const std::uint32_t cluster_bits_;

    // Clusters side by side with the same difference are one finding.
    struct Run {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
        std::uint64_t refcount = 0;
        std::uint32_t used = 0;
    } run_;
};

void Comparison::take(std::uint64_t cluster, std::uint64_t refcount, ReferenceCounts::Word used)
{
    if (!used.well_used())
        findings_.add_lazily(
            used.is(Use::guest) ? Finding::data_cluster_is_metadata : Finding::tables_overlap,
            [&] { return formatted("host cluster {:#x}", cluster << cluster_bits_); });
    if (refcount == used.count() ||
        (used.count() == ReferenceCounts::count_max && refcount > used.count()))
        return;
    if (run_.count == 0 || run_.first + run_.count != cluster || run_.refcount != refcount ||
        run_.used != used.count()) {
        end_run();
        run_ = {cluster, 0, refcount, used.count()};
    }
    ++run_.count;
}

void Comparison::end_run()
{
    if (run_.count != 0)
        findings_.add_lazily(
            run_.refcount > run_.used ? Finding::refcount_too_high : Finding::refcount_too_low,
            [&] {
                return formatted("host cluster {:#x}: refcount {}, used {} times",
                                 run_.first << cluster_bits_, run_.refcount, run_.used);
            },
            run_.count);
    run_.count = 0;
}

}  // namespace

Result<void> compare_refcounts(ImageWalk &walk)
{
    Comparison comparison(walk);
    TRY(walk.refcounts().compare(walk.counts(), [&](std::uint64_t cluster, std::uint64_t refcount,
                                                    ReferenceCounts::Word used) {
        comparison.take(cluster, refcount, used);
    }));
    comparison.end_run();
    return {};
}

std::string CheckReport::text() const
{
    std::string out;
    for (const CheckFinding &f : findings) {
        const std::string next = f.count > 1 ? formatted(", and the next {}", f.count - 1) : "";
        out += formatted("{}: {} ({}{})\n", name_of(f.finding), sentence_of(f.finding),
                         printable(f.place), next);
    }
    for (const std::string &note : notes)
        out += formatted("note: {}\n", printable(note));
    if (more_notes != 0)
        out += formatted("note: and {} more bitmaps like these\n", more_notes);
    return out + formatted("{} corruptions, {} leaked clusters\n", corruptions, leaks);
}

Result<CheckReport> check(ByteStore &store)
{
    ImageWalk walk(store);
    TRY(walk.run());
    TRY(compare_refcounts(walk));
    return walk.findings().report();
}

}  // namespace qcow2
