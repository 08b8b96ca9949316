// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Resize: an image gets another disk size. The bitmaps are somebody else's
// (structure/resized_bitmaps.h); both take effect by one header (H1).
//
//     Resize resize(image, size);
//     Aside aside(image);
//     TRY(resize.prepare(aside));
//     TRY(aside.commit([&](HeaderArea &area) { resize.apply(area); }));
//     resize.finish();
//
// What both sizes have in common reads as before. All else is dropped from the
// active tree: behind the new end nothing is named, and what comes in between
// the old end and the new one reads as zeros, whatever was left there (stale
// entries, bytes in the last cluster) and however long a backing file is.
// Snapshots keep what they have.
//
// The image is settled, nobody else is inside, and it is opened anew after
// that.

#pragma once

#include <optional>
#include <vector>

#include "core/base/log.h"
#include "core/format/l2_table.h"
#include "core/structure/aside.h"

namespace qcow2 {

class Resize {
public:
    // size: bytes, a multiple of 512.
    Resize(Image &image, std::uint64_t size);

    // Whether the image can have a disk of this size. Reads nothing.
    Result<void> check() const;

    // Writes what the new header will name. An external data file is made long
    // enough, durably.
    Result<void> prepare(Aside &aside);
    void apply(HeaderArea &area) const;

    // After the commit: gives back what is named no more, and shortens the data
    // file. What fails leaks, and is said in the log.
    void finish();

private:
    bool grows() const { return size_ > kept_; }
    bool backing_shows() const { return shown_end_ > kept_; }

    Result<void> prepare_data_file();
    Result<void> load_l1();
    Result<void> prepare_boundary(std::uint64_t index, Aside &aside);
    Result<void> prepare_tables(Aside &aside);
    Result<void> prepare_l1(Aside &aside);

    Result<L2Table> load_table(L1Entry l1);
    Result<void> drop_behind(L2Table &table, bool own, Aside &aside);
    Result<void> put_zeros(L2Table &table, std::uint64_t index, Aside &aside);
    Result<void> clear_untrue_copied(L2Table &table);
    Result<HostOffset> write(const L2Table &table, Aside &aside);

    // The cluster that the end of what is kept goes through.
    Result<ClusterMapping> cut(const ClusterMapping &was, bool own, Aside &aside);
    Result<ClusterMapping> cut_data(const Data &was, bool own, Aside &aside);
    Result<ClusterMapping> cut_parts(const Subclusters &was, bool own, Aside &aside);
    bool may_write_in_place(bool own) const { return grows() && (own || geometry_.data_file); }
    Result<Buffer> content(Range part);
    Result<bool> is_zero(HostOffset host, Range part);
    Result<void> write_in_place(HostOffset host, Range part);
    Result<Data> write_anew(Aside &aside);

    Result<void> give_back_table(std::uint64_t index);
    void give_back(HostRun run);

    Image &image_;
    ByteStore &data_;  // where the guest's bytes are
    const Geometry geometry_;
    const std::uint64_t old_size_;
    const std::uint64_t size_;
    const std::uint64_t kept_;  // bytes that both sizes have
    // Up to here a backing file would show behind the old end; else kept_.
    const std::uint64_t shown_end_;

    std::vector<L1Entry> old_l1_;
    std::vector<L1Entry> l1_;
    HostOffset l1_offset_;
    // The table that the end of what is kept goes through, if it was written anew.
    std::optional<L2Table> boundary_;
    HostRun released_;  // not given back yet
    FewWarnings leaked_;
};

}  // namespace qcow2
