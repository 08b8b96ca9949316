// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Image: one open qcow2 image without its bitmaps: the owner of store, header,
// caches and allocator, and the place where the order of writes is made.
//
// The rules W (core/README.md), in short, and who keeps them:
//
// W1  The refcount that counts a name is durable before the name is written.
//     Allocator::take() hands out clusters that are counted durably.
// W2  What an L2 entry makes readable is durable before the entry is written.
//     flush(): seal the tables, flush, then write the sealed copies.
// W3  A name is durably gone before its refcount falls, and before the cluster
//     is used again; never while a reader is at it. flush(): released clusters
//     are lowered after the second flush and after DataPath::drain().
// W4  A guest flush returns when all that was acknowledged is durable, mapping
//     included. flush() joins or leads a whole write-back.
// W5  In the error state reads go on, writes are refused: GuardedStore.
// W6  Bit 63 is never set on disk while the refcount there is not exactly 1.
// W7  What a name behind the end of the file has lost stays an error: it is durably
//     out of reach before the file grows. Disk::begin_writing() and the mapping.
//
// Any thread, but for open(), begin_writing() and settle(), of which the
// caller makes sure that nobody else is inside.

#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/base/cycles.h"
#include "core/base/table_reader.h"
#include "core/image/data_path.h"
#include "core/image/guarded_store.h"
#include "core/image/named_file.h"
#include "core/image/snapshots.h"

namespace qcow2 {

struct ImageOptions {
    // For L2 tables and refcount blocks; 0: enough for 210 GiB.
    std::uint64_t cache_bytes = 0;
    // What opens the files that the image names, and where the image stands itself.
    ChainPlace place;
    // It will only be read.
    bool read_only = false;
    // Trim and zero leave what is allocated allocated.
    bool keep_clusters = false;
    // The ID or name of an internal snapshot: what is read is that one, and
    // nothing is written.
    std::optional<std::string> snapshot;
    // A dirty image is repaired before it is opened to be written to: now, the
    // dirty bit, and refcounts that cannot be read, do not forbid writing.
    bool repaired_first = false;
};

// The other files of an image. They are opened by their names once.
struct ImageFiles {
    std::shared_ptr<Backing> backing;    // nullptr: none
    std::optional<NamedFile> data_file;  // external
};

class Image {
public:
    // What the file begins with, and what that says (read_header_area()).
    struct Beginning {
        HeaderArea area;
        Buffer bytes;
    };
    // For open_image(): with all that it takes at hand. Fails if the disk cannot even be
    // read. options: cache_bytes are said.
    static Result<std::unique_ptr<Image>> open(ByteStore &store, Beginning beginning,
                                               ImageFiles files, const ImageOptions &options);
    // The image must not be used any more.
    ImageFiles release_files();

    // The finding that forbids writing, if any. Known after open().
    const std::optional<Error> &why_read_only() const { return why_read_only_; }

    const Geometry &geometry() const { return geometry_; }
    std::uint64_t disk_size() const { return disk_size_; }
    // False: nobody has written to the disk, and nothing is behind it.
    bool has_content() const { return mapping_.has_tables() || data_.backing_size() != 0; }

    // For the bitmaps, whose clusters are the image's.
    GuardedStore &store() { return store_; }
    ImageHeader &header() { return header_; }
    const ImageHeader &header() const { return header_; }
    Allocator &allocator() { return allocator_; }
    MetadataMap &metadata() { return metadata_; }

    // Whether anything can still be written (W5); first_cause() of that state.
    Result<void> state();
    std::optional<Error> first_cause();

    // For structural changes. Where the guest's bytes are: the store, or an
    // external data file.
    ByteStore &data_store()
    {
        return data_store_ ? static_cast<ByteStore &>(*data_store_) : store_;
    }
    // How far a backing file shows; 0 if there is none.
    std::uint64_t backing_size() const { return data_.backing_size(); }
    // For those who read a snapshot beside the image; nullptr: none.
    const std::shared_ptr<Backing> &backing() const { return data_.backing(); }
    // Clusters of which one name is durably gone, and nobody reads by it (W3):
    // those that have no other are punched out of the file.
    void give_back(HostRun run);

    // The file ends before what its refcounts count: it was cut, or has lost its
    // growth in a crash. Then, before begin_writing(), who can follow every name has
    // to put those out of reach that lead behind the end. Known after open().
    bool counts_behind_end() const { return counts_behind_end_; }
    // A lookup has met such a name, where the refcounts had none: see GuardedStore.
    bool growth_is_held() const { return store_.growth_is_held(); }

    // Once, before the first change: what must be so in a file we write to. H4,
    // which comes before all else; then the rest.
    Result<void> clear_unknown_bits();
    Result<void> begin_writing();

    Result<void> read(GuestOffset offset, MutableBytes bytes) { return data_.read(offset, bytes); }
    Result<void> write(GuestOffset offset, Bytes bytes);
    // While somebody else prepares a structure: nothing changes but bytes of the guest. False: that
    // is not enough, and it has to be written later.
    Result<bool> overwrite(GuestOffset offset, Bytes bytes);
    Result<void> zero(Range range, bool may_unmap);
    Result<void> trim(Range range);
    // The first half of these: all that needs room, and nothing that shows.
    Result<void> place_write(Range range);
    Result<void> place_zero(Range range, bool may_unmap);
    Result<void> place_trim(Range range);
    Result<bool> zero_is_fast(Range range, bool may_unmap)
    {
        return data_.zero_is_fast(range, may_unmap);
    }
    Result<void> look_up(Range range) { return data_.look_up(range); }
    // The first extent from the offset on, at most length_max (not 0) long.
    Result<Extent> status(std::uint64_t offset, std::uint64_t length_max)
    {
        return data_.status(GuestOffset(offset), length_max);
    }

    // W4. Several callers share one write-back.
    Result<void> flush();

    // After bits 63 have changed in the file.
    Result<void> reload_tables() { return mapping_.reload(); }

    // Everything durable and nothing reserved: what a clean stop leaves.
    Result<void> settle();
    // Cuts off what settle() left unused at the end. The last call.
    Result<void> cut();

private:
    // What is served: the active state, or a snapshot.
    struct State {
        std::uint64_t disk_size = 0;
        HostOffset l1_table_offset;
        std::uint32_t l1_size = 0;  // entries
        std::optional<Error> why_read_only;
    };
    static Result<State> find_state(ByteStore &store, const Header &header,
                                    const ImageOptions &options);

    Image(ByteStore &store, std::optional<NamedFile> data_file, HeaderArea area, Buffer beginning,
          const State &state, std::uint64_t cache_bytes);

    std::unique_ptr<GuestClusters> clusters_of_guest();
    Result<void> open_tables(const State &state, const ImageOptions &options);
    Result<void> note_snapshots(const Header &header, bool with_l2_tables);
    Result<void> note_l1_table(const Snapshot &snapshot);
    Result<void> note_l2_tables(const Snapshot &snapshot, TableBuffer &buffer);
    Result<void> flush_stores();
    Result<void> write_back();
    void give_back_released(HostRun run);
    Result<void> write_sealed(const Mapping::Sealed &sealed);
    template <class Operation>
    Result<void> change(Operation operation);
    void mark_corrupt(const Error &cause);

    GuardedStore store_;
    std::optional<NamedFile> data_file_;        // external, if the image has one
    std::unique_ptr<GuardedStore> data_store_;  // its bytes; none: they are in store_
    ImageHeader header_;
    const Geometry geometry_;
    const std::uint64_t disk_size_;
    std::optional<Error> why_read_only_;  // constant after open
    bool counts_behind_end_ = false;      // constant after open

    MetadataMap metadata_;
    Allocator allocator_;
    Mapping mapping_;
    DataPath data_;

    // Set when a pointer led to metadata: the disk is not changed any more.
    std::atomic<bool> corrupt_{false};
    std::atomic<bool> corrupt_marked_{false};  // or somebody is at it

    Cycles write_backs_{Rank::cycle};
};

}  // namespace qcow2
