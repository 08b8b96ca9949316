// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// GuardedStore: the way by which the whole engine reaches its store. It keeps
// these in one place:
//
// O1  On a writable open nothing that was read counts as durable until one
//     flush begun after it has succeeded: a flush goes before the first write.
// W5  A failed flush is final. It cannot be known what was lost, so nothing is
//     sent down any more: reads go on, all else answers with the first cause.
//     A header of which nobody knows what it says is final, too: fail(). One flush
//     runs at a time, for of several flushes at once a kernel tells only one that
//     bytes are lost; callers that wait share the next.
// The last cluster of a file may be cut short (QEMU does not pad it) and in
// use: before something is written behind the file's end, it is padded.
// W7  The file does not grow as long as a name is known to lead behind its end and
//     not to be durably out of reach: hold_growth().
// W8  A file may end inside a sector. If growth is lost in a crash the file ends
//     there again, and of a write across that end half a sector is left, neither
//     old nor new. So such a write waits for a flush that makes the growth durable.
//     That is one flush for each end inside a sector, and none for any other.
//
// Any thread.

#pragma once

#include <atomic>
#include <optional>

#include "core/base/byte_store.h"
#include "core/base/cycles.h"
#include "core/base/mutex.h"

namespace qcow2 {

class GuardedStore final : public ByteStore {
public:
    // cluster_size: bytes, a power of two; 1 where a file has no clusters.
    explicit GuardedStore(ByteStore &below, std::uint64_t cluster_size = 1)
        : below_(below), cluster_size_(cluster_size)
    {
    }

    std::uint64_t size() const override { return below_.size(); }
    std::uint64_t fresh_from() const override { return below_.fresh_from(); }
    bool can_flush() const override { return below_.can_flush(); }
    bool can_grow() const override { return below_.can_grow(); }
    bool durable_alone() const override { return below_.durable_alone(); }
    bool read_only() const override { return below_.read_only(); }

    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override
    {
        return below_.stretch(offset, length_max);
    }
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) override;
    Result<void> discard(std::uint64_t offset, std::uint64_t length) override;
    Result<void> flush() override;
    Result<void> write_durable(std::uint64_t offset, Bytes bytes) override;
    Result<void> write_all_durable(std::span<const Part> parts) override;
    Result<void> grow(std::uint64_t size_min) override;
    Result<void> cut(std::uint64_t size) override;
    Result<void> shorten(std::uint64_t size) override;

    // Who meets a name that leads behind the end (format/table_entry.h) puts it out
    // of reach, in memory, and holds growth until that is durable. let_grow() is told
    // of how many holds this is so. Meanwhile growing fails (io), and may be tried
    // again after a flush of the tables.
    void hold_growth() { ++holds_; }
    std::uint64_t holds() const { return holds_; }
    bool growth_is_held() const { return holds_ != let_go_; }
    void let_grow(std::uint64_t holds) { let_go_ = holds; }

    // In the error state: the first cause.
    Result<void> state();
    std::optional<Error> first_cause();
    // Enters the error state: it is not known what the file says.
    void fail(Error cause);

private:
    // What stands before everything that changes the store: O1 and W5.
    Result<void> before_change();
    Result<void> pad_last_cluster(std::uint64_t offset, std::uint64_t length);
    Result<void> before_crossing(std::uint64_t offset, std::uint64_t length);
    Result<void> leave_old_end() REQUIRES(old_end_mutex_);
    Result<void> grow_below(std::uint64_t size_min);
    Result<void> after_flush(Result<void> result);
    Result<void> unless_lost(Result<void> result);
    Error error_state();

    ByteStore &below_;
    const std::uint64_t cluster_size_;
    std::atomic<bool> opened_{false};  // O1: the first flush has succeeded
    std::atomic<bool> failed_{false};
    std::atomic<std::uint64_t> holds_{0};
    std::atomic<std::uint64_t> let_go_{0};  // for the write-back
    // W8: an end inside a sector, from which the file has grown, and may end there
    // again. 0: none. Changes under the mutex.
    std::atomic<std::uint64_t> old_end_{0};
    Mutex old_end_mutex_{Rank::growth};
    Cycles flushes_{Rank::store};
    Mutex mutex_{Rank::store};
    std::optional<Error> first_cause_ GUARDED_BY(mutex_);
};

}  // namespace qcow2
