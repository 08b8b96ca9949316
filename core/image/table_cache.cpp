// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/table_cache.h"

#include <algorithm>

#include "core/base/arith.h"
#include "core/base/log.h"

namespace qcow2 {

TableCache::TableCache(ByteStore &store, Rank rank, std::uint64_t piece_bytes,
                       std::uint64_t capacity_bytes)
    : mutex(rank),
      store_(store),
      piece_bytes_(piece_bytes),
      pieces_max_(std::max<std::uint64_t>(capacity_bytes / piece_bytes, 16))
{
}

TableCache::~TableCache()
{
    Locked lock(mutex);
    std::vector<Piece *> all;
    pieces_.for_each([&](Piece &piece) { all.push_back(&piece); });
    for (Piece *piece : all) {
        INVARIANT(!piece->loading && !piece->writing);
        drop(*piece);
    }
}

void TableCache::drop(Piece &piece)
{
    if (piece.dirty) {
        pieces_.unpin(piece);
        --dirty_count_;
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
    return result ? std::move(result) : std::move(result).in("table at " + hex(offset));
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

void TableCache::mark_dirty(HostOffset offset)
{
    Piece *piece = pieces_.find(key(offset));
    INVARIANT(piece && !piece->loading);
    if (!piece->dirty) {
        piece->dirty = true;
        pieces_.pin(*piece);
        ++dirty_count_;
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

// Dirty pieces are pinned and do not count as room that could be made.
void TableCache::evict()
{
    while (pieces_.size() - std::min<std::uint64_t>(pieces_.size(), dirty_count_) > pieces_max_) {
        Piece *victim = pieces_.victim([](const Piece &) { return true; });
        if (!victim)
            return;
        drop(*victim);
    }
}

std::vector<TableCache::Sealed> TableCache::seal()
{
    std::vector<Piece *> dirty;
    pieces_.for_each([&](Piece &piece) {
        if (piece.dirty)
            dirty.push_back(&piece);
    });
    std::sort(dirty.begin(), dirty.end(),
              [](const Piece *a, const Piece *b) { return a->key() < b->key(); });

    // All copies first: if there is no memory for them, nothing has changed.
    std::vector<Sealed> sealed;
    for (const Piece *piece : dirty) {
        const std::uint64_t offset = piece->key() * piece_bytes_;
        if (sealed.empty() || sealed.back().offset + sealed.back().bytes.size() != offset)
            sealed.push_back({offset, {}});
        Buffer &bytes = sealed.back().bytes;
        bytes.insert(bytes.end(), piece->bytes.begin(), piece->bytes.end());
    }
    for (Piece *piece : dirty) {
        INVARIANT(!piece->writing);
        piece->writing = true;  // takes over the pin of `dirty`
        piece->dirty = false;
        --dirty_count_;
    }
    return sealed;
}

Result<void> TableCache::write(ByteStore &store, const std::vector<Sealed> &sealed)
{
    for (const Sealed &run : sealed) {
        // QEMU does not pad the last cluster of a file, and a store may be
        // unable to: what is not there and zero need not be written.
        Bytes bytes = run.bytes;
        const std::uint64_t inside = store.size() - std::min(store.size(), run.offset);
        if (bytes.size() > inside && all_zero(sub(bytes, inside, bytes.size() - inside)))
            bytes = sub(bytes, 0, inside);
        TRY(store.write(run.offset, bytes).in("table at " + hex(run.offset)));
    }
    return {};
}

void TableCache::unseal(const std::vector<Sealed> &sealed, bool written)
{
    for (const Sealed &run : sealed)
        for (std::uint64_t done = 0; done < run.bytes.size(); done += piece_bytes_) {
            Piece *piece = pieces_.find((run.offset + done) / piece_bytes_);
            INVARIANT(piece && piece->writing);
            piece->writing = false;
            if (!written && !piece->dirty) {
                piece->dirty = true;  // keeps the pin
                ++dirty_count_;
            } else {
                pieces_.unpin(*piece);
            }
        }
    changed_.notify_all();
    evict();
}

}  // namespace qcow2
