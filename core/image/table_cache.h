// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// TableCache: pieces of L2 tables or refcount blocks in memory.
//
// A piece is piece_bytes of the file at a multiple of piece_bytes. Clean
// pieces go when there are more, with the dirty ones, than the capacity allows;
// dirty ones stay until they were written. Bytes are touched under the cache's mutex only; a
// span from get() is good until the mutex is released, or get() is called again.
//
// Writing back takes three steps, so that no I/O happens under the mutex:
// seal() notes what is dirty, write() puts it into the store as it was then,
// unseal() says how it went. Between seal() and unseal() pieces may be changed
// again; they are dirty again then, and what was sealed of them is kept aside.
// One write-back at a time.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include <boost/intrusive/list.hpp>

#include "core/base/byte_store.h"
#include "core/base/lru.h"
#include "core/base/mutex.h"
#include "core/format/units.h"

namespace qcow2 {

// Writes bytes of a table. What is zero and lies behind the end of the store is
// left out: QEMU does not pad the last cluster of a file, and a store may be
// unable to.
Result<void> write_table(ByteStore &store, std::uint64_t offset, Bytes bytes);

class TableCache {
public:
    // Numbers of pieces, in their order.
    using Sealed = std::vector<std::uint64_t>;

    TableCache(ByteStore &store, Rank rank, std::uint64_t piece_bytes,
               std::uint64_t capacity_bytes);
    ~TableCache();
    TableCache(const TableCache &) = delete;
    TableCache &operator=(const TableCache &) = delete;

    // The caller's lock for what belongs together with the tables.
    mutable Mutex mutex;

    std::uint64_t piece_bytes() const { return piece_bytes_; }

    // The piece that holds the byte at this offset, read if it is not there.
    // Lets go of the mutex while it reads, so that what the caller knew under
    // it must be looked at again.
    Result<MutableBytes> get(HostOffset offset) REQUIRES(mutex);

    // The piece is about to be changed; it is in the cache (the last get() was for
    // it, and what it gave stays good).
    void before_change(HostOffset offset) REQUIRES(mutex);

    // These bytes of the file were written by somebody else, or belong to
    // nobody: forget what is cached of them, dirty or not.
    void forget(HostOffset offset, std::uint64_t length) REQUIRES(mutex);

    // Also without the mutex: then as it was a moment ago.
    std::uint64_t dirty_bytes() const
    {
        return dirty_count_.load(std::memory_order_relaxed) * piece_bytes_;
    }

    Sealed seal() REQUIRES(mutex);
    Result<void> write(const Sealed &sealed) EXCLUDES(mutex);
    void unseal(const Sealed &sealed, bool written) REQUIRES(mutex);

private:
    struct Piece : LruItem {
        using LruItem::LruItem;
        Buffer bytes;
        Buffer sealed;  // as it was; empty if nothing has changed since
        // Each of these holds a pin.
        bool loading = false;
        bool dirty = false;
        bool writing = false;
        boost::intrusive::list_member_hook<> in_dirty;
    };
    // What a flush has to write is found without a look at what is clean.
    using DirtyList = boost::intrusive::list<
        Piece, boost::intrusive::member_hook<Piece, boost::intrusive::list_member_hook<>,
                                             &Piece::in_dirty>>;

    std::uint64_t key(HostOffset offset) const { return offset.value / piece_bytes_; }
    Result<void> load(Piece &piece) REQUIRES(mutex);
    void loaded(Piece &piece, bool well) REQUIRES(mutex);
    void set_dirty(Piece &piece) REQUIRES(mutex);
    void set_clean(Piece &piece) REQUIRES(mutex);
    void drop(Piece &piece) REQUIRES(mutex);
    void evict() REQUIRES(mutex);
    std::size_t gather(const Sealed &sealed, std::size_t first, Buffer &bytes) REQUIRES(mutex);

    ByteStore &store_;
    const std::uint64_t piece_bytes_;
    const std::uint64_t pieces_max_;

    Condition changed_;  // a load or a write has ended
    Lru<Piece> pieces_ GUARDED_BY(mutex);
    DirtyList dirty_ GUARDED_BY(mutex);
    std::atomic<std::uint64_t> dirty_count_{0};  // changes under the mutex
};

}  // namespace qcow2
