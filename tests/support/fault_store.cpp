// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/fault_store.h"

#include <bit>
#include <string>

namespace qcow2::test {

void FaultPlan::arm(Fault fault)
{
    armed_ = false;
    fault_ = fault;
    met_ = 0;
    struck_ = 0;
    armed_ = true;
}

bool FaultPlan::strikes(Fault::Kind kind)
{
    if (!armed_ || (fault_.kinds & kind) == 0)
        return false;
    const std::uint64_t n = ++met_;
    if (fault_.forever ? n < fault_.nth : n != fault_.nth)
        return false;
    ++struck_;
    return true;
}

template <class Action>
Result<void> FaultStore::run(Fault::Kind kind, Action action)
{
    ++counts_[std::countr_zero(static_cast<unsigned>(kind))];
    if (!plan_.strikes(kind))
        return action();
    const Fault &fault = plan_.fault();
    if (fault.lands && kind != Fault::reads)
        TRY(action());
    return Error(fault.errc, "injected fault " + std::to_string(fault.nth));
}

std::uint64_t FaultStore::count(Fault::Kind kind) const
{
    return counts_[std::countr_zero(static_cast<unsigned>(kind))];
}

Result<void> FaultStore::read(std::uint64_t offset, MutableBytes bytes)
{
    return run(Fault::reads, [&] { return base_.read(offset, bytes); });
}

Result<void> FaultStore::write(std::uint64_t offset, Bytes bytes)
{
    return run(Fault::writes, [&] { return base_.write(offset, bytes); });
}

Result<void> FaultStore::zero(std::uint64_t offset, std::uint64_t length, bool may_unmap)
{
    return run(Fault::zeros, [&] { return base_.zero(offset, length, may_unmap); });
}

Result<void> FaultStore::discard(std::uint64_t offset, std::uint64_t length)
{
    return run(Fault::discards, [&] { return base_.discard(offset, length); });
}

Result<void> FaultStore::flush()
{
    return run(Fault::flushes, [&] { return base_.flush(); });
}

Result<void> FaultStore::write_durable(std::uint64_t offset, Bytes bytes)
{
    // The write has to fail before the barrier does, and a failed barrier
    // leaves the write where it is.
    return run(Fault::writes, [&]() -> Result<void> {
        if (plan_.strikes(Fault::flushes)) {
            TRY(base_.write(offset, bytes));
            return Error(Errc::lost, "injected fault " + std::to_string(plan_.fault().nth));
        }
        return base_.write_durable(offset, bytes);
    });
}

Result<void> FaultStore::grow(std::uint64_t size_min)
{
    return run(Fault::grows, [&] { return base_.grow(size_min); });
}

Result<void> FaultStore::cut(std::uint64_t size)
{
    return run(Fault::cuts, [&] { return base_.cut(size); });
}

}  // namespace qcow2::test
