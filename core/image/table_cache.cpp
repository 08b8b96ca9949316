// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What a piece can be, and what holds it in memory (each flag holds a pin):
//
//     loading   it is being read; nobody may look at its bytes yet
//     (none)    clean: the file says the same. It may be evicted
//     dirty     changed since it was last sealed; in the list of dirty pieces
//     writing   sealed, and under way to the file; `sealed` is empty as long as its
//               bytes are what was sealed
//     writing   and dirty: changed again since then. `sealed` has the bytes that are
//               under way, `bytes` those that the next write-back takes
//
// Three things make it harder than a map with a list.
//
// No I/O under the mutex. load() puts the piece into the map first, marked loading, and then
// releases the mutex to read. A thread that looks for the same piece finds the mark and waits;
// so a piece is read once, however many want it. When the mutex is back anything may have
// happened: the piece may have been forgotten, because its clusters are used for something else.
// So get() does not return what it has loaded but looks it up again. For the same reason the span
// that get() returns is good only until the mutex is released.
//
// A change during a write-back. The write-back must write what was sealed, and nothing newer:
// for a newer entry nothing is known to be durable (image_write_back.cpp). The bytes are not
// copied when they are sealed, which would double the dirty memory at every flush. They are
// copied by the first change that comes meanwhile, in before_change(), which is why it must be
// called before each change and not after it. If the write-back fails, a piece that was not
// changed again is simply dirty again; one that was is dirty anyway, and has newer bytes.
//
// Eviction. Dirty pieces cannot go, so the cache may hold more than its capacity; Mapping asks
// for a write-back when half of it is dirty. At least unpinned_min clean pieces stay whatever
// the number of dirty ones: else, with all of the capacity dirty, a piece that was just loaded
// would be evicted before get() has looked it up again, for ever.
//
// Reading is by pieces of 4 KiB and not by tables, as a table of 2 MiB would be read as a
// whole for one entry. Writing joins neighbours again, up to 1 MiB.

#include "core/image/table_cache.h"

#include <algorithm>
#include <utility>

#include "core/base/arith.h"
#include "core/base/rare.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t unpinned_min = 16;

// Neighbours are written together up to this.
constexpr std::size_t write_bytes_max = 1 << 20;

}  // namespace

Result<void> write_table(ByteStore &store, std::uint64_t offset, Bytes bytes)
{
    const std::uint64_t inside = store.size() - std::min(store.size(), offset);
    if (bytes.size() > inside && all_zero(sub(bytes, inside, bytes.size() - inside)))
        bytes = sub(bytes, 0, inside);
    return store.write(offset, bytes).in("table at {:#x}", offset);
}

TableCache::TableCache(ByteStore &store, Rank rank, std::uint64_t piece_bytes,
                       std::uint64_t capacity_bytes)
    : mutex(rank),
      store_(store),
      piece_bytes_(piece_bytes),
      pieces_max_(std::max(capacity_bytes / piece_bytes, unpinned_min))
{
}

TableCache::~TableCache()
{
    // (No list of them: there may be no memory for it.)
    Locked lock(mutex);
    while (!dirty_.empty()) {
        Piece &piece = dirty_.front();
        set_clean(piece);
        pieces_.unpin(piece);
    }
    while (Piece *piece = pieces_.victim([](const Piece &) { return true; }))
        drop(*piece);
}

// The pin is the caller's matter.
void TableCache::set_dirty(Piece &piece)
{
    piece.dirty = true;
    dirty_.push_back(piece);
    ++dirty_count_;
}

void TableCache::set_clean(Piece &piece)
{
    piece.dirty = false;
    dirty_.erase(dirty_.iterator_to(piece));
    --dirty_count_;
}

void TableCache::drop(Piece &piece)
{
    if (piece.dirty) {
        set_clean(piece);
        pieces_.unpin(piece);
    }
    pieces_.erase(piece);
    delete &piece;
}

Result<void> TableCache::load(Piece &piece)
{
    const std::uint64_t offset = piece.key() * piece_bytes_;
    Result<void> result;
    try {
        const Unlocked meanwhile(mutex);
        result = store_.read(offset, piece.bytes);
    } catch (...) {
        loaded(piece, false);
        throw;
    }
    loaded(piece, result.has_value());
    return result ? std::move(result) : std::move(result).in("table at {:#x}", offset);
}

void TableCache::loaded(Piece &piece, bool well)
{
    piece.loading = false;
    pieces_.unpin(piece);
    changed_.notify_all();
    if (!well)
        drop(piece);
}

Result<MutableBytes> TableCache::get(HostOffset offset)
{
    for (;;) {
        Piece *piece = pieces_.find(key(offset));
        if (!piece) {
            auto fresh = std::make_unique<Piece>(key(offset));
            fresh->bytes.resize(piece_bytes_);
            fresh->loading = true;
            pieces_.insert(*fresh);
            piece = fresh.release();
            pieces_.pin(*piece);
            TRY(load(*piece));
            evict();
            continue;  // somebody may have forgotten it meanwhile
        }
        if (!piece->loading) {
            pieces_.touch(*piece);
            return MutableBytes(piece->bytes);
        }
        changed_.wait(mutex);
    }
}

void TableCache::before_change(HostOffset offset)
{
    Piece *piece = pieces_.find(key(offset));
    INVARIANT(piece && !piece->loading);
    if (piece->writing && piece->sealed.empty())
        piece->sealed = piece->bytes;
    if (!piece->dirty) {
        pieces_.pin(*piece);
        set_dirty(*piece);
    }
}

void TableCache::forget(HostOffset offset, std::uint64_t length)
{
    for (std::uint64_t k = key(offset); k * piece_bytes_ < offset.value + length; ++k) {
        Piece *piece = pieces_.find(k);
        while (piece && (piece->loading || piece->writing)) {
            changed_.wait(mutex);
            piece = pieces_.find(k);
        }
        if (piece)
            drop(*piece);
    }
}

// Pieces that are dirty or being written are pinned and stay; a few others stay
// beside them, so that a piece that was just loaded is still there for its request.
void TableCache::evict()
{
    while (pieces_.size() > pieces_max_ && pieces_.unpinned() > unpinned_min) {
        Piece *victim = pieces_.victim([](const Piece &) { return true; });
        if (!victim)
            return;
        drop(*victim);
    }
}

TableCache::Sealed TableCache::seal()
{
    Sealed sealed;
    sealed.reserve(dirty_count_);
    while (!dirty_.empty()) {
        Piece &piece = dirty_.front();
        INVARIANT(!piece.writing);
        sealed.push_back(piece.key());
        piece.writing = true;  // takes over the pin of `dirty`
        set_clean(piece);
    }
    std::ranges::sort(sealed);
    return sealed;
}

// The bytes, as they were sealed, of the pieces from this one on that lie side by
// side; returns which comes next.
std::size_t TableCache::gather(const Sealed &sealed, std::size_t first, Buffer &bytes)
{
    bytes.clear();
    std::size_t i = first;
    do {
        const Piece *piece = pieces_.find(sealed[i]);
        INVARIANT(piece && piece->writing);
        const Buffer &was = piece->sealed.empty() ? piece->bytes : piece->sealed;
        bytes.insert(bytes.end(), was.begin(), was.end());
        ++i;
    } while (i < sealed.size() && sealed[i] == sealed[i - 1] + 1 && bytes.size() < write_bytes_max);
    return i;
}

Result<void> TableCache::write(const Sealed &sealed)
{
    Buffer bytes;
    for (std::size_t i = 0; i < sealed.size();) {
        const std::uint64_t offset = sealed[i] * piece_bytes_;
        {
            Locked lock(mutex);
            i = gather(sealed, i, bytes);
        }
        TRY(write_table(store_, offset, bytes));
    }
    return {};
}

void TableCache::unseal(const Sealed &sealed, bool written)
{
    for (const std::uint64_t number : sealed) {
        Piece *piece = pieces_.find(number);
        INVARIANT(piece && piece->writing);
        piece->writing = false;
        piece->sealed = Buffer();
        if (!written && !piece->dirty) {
            RARE("a table that could not be written is dirty again");
            set_dirty(*piece);  // keeps the pin
        } else {
            pieces_.unpin(*piece);
        }
    }
    changed_.notify_all();
    evict();
}

}  // namespace qcow2
