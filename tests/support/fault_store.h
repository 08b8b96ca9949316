// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// FaultStore: passes everything on, but lets the n-th operation of a kind fail,
// once or from then on. Counts them all.
//
//     for_each_fault(Fault{.kinds = Fault::writes}, [&](FaultPlan &plan) {
//         MemoryStore memory(...);
//         FaultStore store(memory, plan);
//         ...
//     });
//
// runs the body with the first fault, the second, ..., until a run meets none.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/base/byte_store.h"

namespace qcow2::test {

struct Fault {
    enum Kind : unsigned {
        reads = 1,
        writes = 2,
        zeros = 4,
        discards = 8,
        flushes = 16,
        grows = 32,
        cuts = 64,
        changes = writes | zeros | discards | flushes | grows | cuts,
        all = reads | changes,
    };

    unsigned kinds = all;
    std::uint64_t nth = 1;  // the first that fails, counted over the kinds together, from 1
    bool forever = false;   // all that come after, too
    bool lands = false;     // what fails was done all the same (not reads)
    Errc errc = Errc::io;
};

// A fault and how often it struck: outlives the stores of a test.
class FaultPlan {
public:
    FaultPlan() = default;
    explicit FaultPlan(Fault fault) : fault_(fault), armed_(true) {}

    void arm(Fault fault);
    void disarm() { armed_ = false; }
    std::uint64_t struck() const { return struck_; }

    // Counts one operation; true if it is to fail.
    bool strikes(Fault::Kind kind);
    const Fault &fault() const { return fault_; }

private:
    Fault fault_;
    std::atomic<bool> armed_{false};
    std::atomic<std::uint64_t> met_{0};
    std::atomic<std::uint64_t> struck_{0};
};

class FaultStore final : public ByteStore {
public:
    // Both must outlive it.
    FaultStore(ByteStore &base, FaultPlan &plan) : base_(base), plan_(plan) {}

    std::uint64_t size() const override { return base_.size(); }
    std::uint64_t fresh_from() const override { return base_.fresh_from(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) override;
    Result<void> discard(std::uint64_t offset, std::uint64_t length) override;
    Result<void> flush() override;
    bool can_flush() const override { return base_.can_flush(); }
    bool durable_alone() const override { return base_.durable_alone(); }
    // Counts as a write and a flush: either may fail, the flush with `lost`.
    Result<void> write_durable(std::uint64_t offset, Bytes bytes) override;
    Result<void> grow(std::uint64_t size_min) override;
    bool can_grow() const override { return base_.can_grow(); }
    Result<void> cut(std::uint64_t size) override;
    bool read_only() const override { return base_.read_only(); }

    // How many came, failed ones too. One kind.
    std::uint64_t count(Fault::Kind kind) const;

private:
    template <class Action>
    Result<void> run(Fault::Kind kind, Action action);

    ByteStore &base_;
    FaultPlan &plan_;
    std::array<std::atomic<std::uint64_t>, 7> counts_{};
};

// The body is called with one fault after the other until it meets none, or
// nth_max is reached. Returns how many struck.
template <class Body>
std::uint64_t for_each_fault(Fault fault, Body body, std::uint64_t nth_max = ~std::uint64_t(0))
{
    for (fault.nth = 1; fault.nth <= nth_max; ++fault.nth) {
        FaultPlan plan(fault);
        body(plan);
        if (plan.struck() == 0)
            return fault.nth - 1;
    }
    return nth_max;
}

}  // namespace qcow2::test
