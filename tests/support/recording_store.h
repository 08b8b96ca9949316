// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// RecordingStore: passes everything on and writes down what was asked, when it
// began and when it returned. Time is counted in events: each begin and each
// return is one.

#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "core/base/byte_store.h"
#include "core/base/range.h"
#include "tests/support/stirrer.h"

namespace qcow2::test {

struct Operation {
    enum class Kind { read, write, write_durable, zero, discard, flush, grow, cut, mark };
    static constexpr std::uint64_t never = ~std::uint64_t(0);

    Kind kind = Kind::mark;
    std::uint64_t offset = 0;  // grow: the size asked for; cut: the size; mark: its number
    std::uint64_t length = 0;
    Buffer data;                   // write, write_durable
    std::uint64_t size_after = 0;  // grow, cut: the store's size when it had returned
    std::uint64_t begun = never;   // events
    std::uint64_t returned = never;
    bool succeeded = false;

    bool writes() const
    {
        return kind == Kind::write || kind == Kind::write_durable || kind == Kind::zero ||
               kind == Kind::discard;
    }
    Range range() const { return Range::of(offset, length); }
};

std::string to_string(const Operation &operation);

struct Recording {
    struct Event {
        std::size_t operation;  // index; no_operation: a tick
        bool is_return;
    };
    static constexpr std::size_t no_operation = ~std::size_t(0);
    std::vector<Operation> operations;  // in the order of their beginning
    std::vector<Event> events;

    // The index of the first operation at or after `from` of which the
    // predicate is true; operations.size() if there is none.
    template <class Predicate>
    std::size_t find(std::size_t from, Predicate predicate) const
    {
        while (from < operations.size() && !predicate(operations[from]))
            ++from;
        return from;
    }

    // True if a flush that began after the operation had returned succeeded
    // before the event `until`, or it was a write_durable that returned.
    bool is_durable(const Operation &operation, std::uint64_t until) const;

    // One line for each operation.
    std::string text() const;
};

class RecordingStore final : public ByteStore {
public:
    // The base must outlive it. Reads are written down only if asked for.
    explicit RecordingStore(ByteStore &base, bool with_reads = false)
        : base_(base), with_reads_(with_reads)
    {
    }

    std::uint64_t size() const override { return base_.size(); }
    std::uint64_t fresh_from() const override { return base_.fresh_from(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) override;
    Result<void> discard(std::uint64_t offset, std::uint64_t length) override;
    Result<void> flush() override;
    bool can_flush() const override { return base_.can_flush(); }
    bool durable_alone() const override { return base_.durable_alone(); }
    Result<void> write_durable(std::uint64_t offset, Bytes bytes) override;
    Result<void> write_all_durable(std::span<const Part> parts) override;
    Result<void> grow(std::uint64_t size_min) override;
    bool can_grow() const override { return base_.can_grow(); }
    Result<void> cut(std::uint64_t size) override;
    bool read_only() const override { return base_.read_only(); }

    // From now on threads take turns inside the operations, by the seed.
    void stir(std::uint64_t seed) { stirrer_.stir(seed); }

    // The time: the number of events so far.
    std::uint64_t now() const;
    // The number of an event of its own, which has happened: no two callers have the
    // same, and what the store is asked lies before it or behind it.
    std::uint64_t tick();
    // An event of the test's own.
    void mark(std::uint64_t number);
    // All so far; to be looked at while nothing is under way.
    Recording recording() const;
    void forget();

private:
    template <class Action>
    Result<void> record(Operation operation, Action action);

    ByteStore &base_;
    const bool with_reads_;
    Stirrer stirrer_;
    // No lock of the engine: it may be taken under any of them.
    mutable std::mutex mutex_;
    Recording recording_;
};

}  // namespace qcow2::test
