// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// SnapshotReader: an internal snapshot that is read while the disk beside it is
// written, resized, and gets more snapshots.
//
// It needs nothing of the image that is open but its backing file, for nothing that it
// reads changes as long as the snapshot is there:
// * its L1 table is named by nobody else, and never written;
// * its L2 tables, and what they name, are counted for it. A writer that shares them copies
//   them before it changes anything (Mapping::make_table, DataPath). Bits 63 alone come and
//   go in place, and to a reader they mean nothing;
// * no count falls to 0, so that nothing is used again or punched out of the file;
// * where names lead behind the end of the file they lead behind it for ever: here the
//   file ends where it ended when the snapshot was opened. So what becomes of such
//   entries when it grows (W7) is of no matter.
// So there is no gate, no reader is waited for, and none waits. What must not happen is
// that the snapshot goes: ServedSnapshots knows which are being read.
//
// Any thread.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/byte_store.h"
#include "core/base/mutex.h"
#include "core/base/range.h"
#include "core/image/extent.h"
#include "core/image/snapshots.h"

namespace qcow2 {

class Image;

class SnapshotReader {
public:
    // image: the one that is open, on this store. It may be closed later, and opened
    // anew. unsupported: it has an external data file, which keeps no snapshots.
    static Result<std::unique_ptr<SnapshotReader>> open(ByteStore &store, const Image &image,
                                                        const Snapshot &snapshot);
    ~SnapshotReader();

    const Snapshot &snapshot() const { return snapshot_; }
    std::uint64_t size() const { return size_; }  // bytes, a multiple of 512

    // Ranges lie inside size(): else invalid.
    Result<void> read(GuestOffset offset, MutableBytes bytes);
    // As Disk::block_status().
    Result<std::vector<Extent>> block_status(GuestOffset offset, std::uint64_t length);

private:
    class Parts;
    SnapshotReader(const Snapshot &snapshot, std::unique_ptr<Parts> parts);
    Result<void> check_range(Range range) const;

    const Snapshot snapshot_;
    const std::uint64_t size_;
    const std::unique_ptr<Parts> parts_;
};

// Which snapshots of an image are being read, one reader for each, however many clients
// it has. Any thread; open() inside the disk's gate, check_unused() with the gate closed.
class ServedSnapshots {
public:
    // not_found.
    Result<std::shared_ptr<SnapshotReader>> open(ByteStore &store, Image &image,
                                                 std::string_view id_or_name) EXCLUDES(mutex_);
    // busy: somebody reads it. A snapshot that is not there is no error here: the operation
    // on it finds that out.
    Result<void> check_unused(Image &image, std::string_view id_or_name) EXCLUDES(mutex_);

private:
    std::shared_ptr<SnapshotReader> find(const Snapshot &snapshot) REQUIRES(mutex_);

    Mutex mutex_{Rank::served};
    std::vector<std::weak_ptr<SnapshotReader>> readers_ GUARDED_BY(mutex_);
};

}  // namespace qcow2
