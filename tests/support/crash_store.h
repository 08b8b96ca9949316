// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The crash simulator. Its method:
//
// A CrashStore is a store in memory that records what is asked of it: the
// bytes of each write, and for every operation the moment at which it began
// and the moment at which it returned. The engine runs over it once, as fast
// as it can. Afterwards a CrashWalk goes through the recording from event to
// event, and at each event it can tell what a disk may hold if the power fails
// at that very moment - as many times as one likes, without running the engine
// again.
//
// What is durable. A write is durable when a flush that began after the write
// had returned has succeeded. A write that was under way when the flush began
// is not. A write_durable is durable when it has returned; it makes nothing
// else durable, because a real store may sync those few bytes alone. A failed
// flush is remembered: what was written before it is in doubt for ever, and no
// later flush makes it durable.
//
// What may be on disk. The only atom is the sector, 512 bytes. Everything
// durable is there. Of what came after (written and not flushed, or still under
// way) each sector holds the durable bytes or those after any one of the
// writes that touched it, independent of all others: so writes are lost, torn
// and reordered. Which, is drawn by CrashMode. The modes with few survivors,
// or few losses, find what coins for each sector almost never find: a missing
// flush shows when exactly the one write is there that should have waited.
//
// The length. A growth that was not flushed may be lost. Bytes behind the end
// are then lost as well, whatever was written there; a later growth brings
// zeros. A cut works the other way round.
//
// kill -9. The process dies, the page cache does not: kept() gives a Life in
// which everything written is there to be read, the writes under way in part,
// and nothing of it is durable that was not before. A CrashStore that begins
// with that Life runs the engine again; if the power fails then, unflushed
// writes of the first life may still be lost. Rule O1 is about this.

#pragma once

#include <memory>
#include <vector>

#include "core/base/bit_vector.h"
#include "tests/support/fault_store.h"
#include "tests/support/memory_store.h"
#include "tests/support/random.h"
#include "tests/support/recording_store.h"

namespace qcow2::test {

constexpr std::uint64_t sector_size = 512;

// A write, or a piece of one, that is not durable yet.
struct PendingWrite {
    enum class Content { data, zero, garbage };

    std::uint64_t operation = 0;  // pieces of one operation have the same number
    Range bytes;                  // whole sectors
    Content content = Content::data;
    std::shared_ptr<const Buffer> data;  // the sectors after this write
    BitVector alive;                     // sectors that no newer durable write covers
    std::uint64_t returned = Operation::never;
    bool in_doubt = false;  // a flush failed since

    std::uint64_t sectors() const { return bytes.length() / sector_size; }
};

struct PendingSize {
    std::uint64_t size = 0;
    std::uint64_t returned = Operation::never;
};

// What is left when a process ends: what reads answer, and how much of it the
// disk has.
struct Life {
    StoreImage cache;
    StoreImage durable;
    std::vector<PendingWrite> writes;  // all returned
    std::vector<PendingSize> sizes;

    // Everything durable.
    static Life of(StoreImage image) { return {image, image, {}, {}}; }
};

class CrashStore final : public ByteStore {
public:
    explicit CrashStore(Life life, StoreOptions options = {});

    std::uint64_t size() const override { return top_.size(); }
    std::uint64_t fresh_from() const override { return top_.fresh_from(); }
    Result<void> read(std::uint64_t o, MutableBytes b) override { return top_.read(o, b); }
    Result<void> write(std::uint64_t o, Bytes b) override { return top_.write(o, b); }
    Result<void> zero(std::uint64_t o, std::uint64_t n, bool u) override
    {
        return top_.zero(o, n, u);
    }
    Result<void> discard(std::uint64_t o, std::uint64_t n) override { return top_.discard(o, n); }
    Result<void> flush() override { return top_.flush(); }
    bool can_flush() const override { return top_.can_flush(); }
    bool durable_alone() const override { return top_.durable_alone(); }
    Result<void> write_durable(std::uint64_t o, Bytes b) override
    {
        return top_.write_durable(o, b);
    }
    Result<void> grow(std::uint64_t n) override { return top_.grow(n); }
    bool can_grow() const override { return top_.can_grow(); }
    Result<void> cut(std::uint64_t n) override { return top_.cut(n); }
    bool read_only() const override { return top_.read_only(); }

    // Lets flushes fail (Fault::flushes only: what other faults leave behind is
    // a FaultStore's business, on top).
    FaultPlan &flush_faults() { return flush_faults_; }
    // Threads take turns inside operations, by the seed.
    void stir(std::uint64_t seed) { top_.stir(seed); }

    std::uint64_t now() const { return top_.now(); }
    std::uint64_t tick() { return top_.tick(); }
    void mark(std::uint64_t number) { top_.mark(number); }
    Recording recording() const { return top_.recording(); }
    const Life &beginning() const { return beginning_; }
    const StoreOptions &options() const { return options_; }
    // As reads see it now.
    StoreImage image() const { return memory_.image(); }

private:
    const StoreOptions options_;
    const Life beginning_;
    MemoryStore memory_;
    FaultPlan flush_faults_;
    FaultStore faults_;
    RecordingStore top_;
};

// Of the operations that are not durable,
enum class CrashMode {
    none,         // none is there
    all,          // all are
    prefix,       // the first few are, the last of them torn
    one,          // exactly one is
    all_but_one,  // exactly one is not
    subset,       // each is or is not
    torn,         // each sector is or is not
};
constexpr unsigned crash_modes = 7;

class CrashWalk {
public:
    // The store's life so far. Nothing is under way at the store now.
    explicit CrashWalk(const CrashStore &store);

    const Recording &recording() const { return recording_; }
    std::uint64_t events() const { return recording_.events.size(); }
    // Goes on until this many events have happened.
    void advance_to(std::uint64_t event);
    std::uint64_t position() const { return position_; }
    // How many operations the disk may hold or not.
    std::uint64_t pending() const;
    // Whether a flush failed of which some writes are still not durable.
    bool in_doubt() const;

    // What the disk may hold if the power fails now.
    StoreImage power_cut(Random &random, CrashMode mode) const;
    StoreImage power_cut(Random &random) const;
    // What is left if the process is killed now.
    Life kept(Random &random) const;

private:
    void begin(std::size_t index);
    void finish(std::size_t index);
    void add(std::size_t index, Range bytes, PendingWrite::Content content);
    void resized(std::size_t index);
    void make_durable(std::size_t pending_index);
    void make_sizes_durable(std::uint64_t begun);
    void flushed(std::uint64_t begun);
    std::vector<bool> drawn(Random &random, CrashMode mode) const;
    std::uint64_t drawn_size(Random &random, CrashMode mode) const;

    Recording recording_;
    StoreOptions options_;
    std::uint64_t position_ = 0;
    Life life_;
};

}  // namespace qcow2::test
