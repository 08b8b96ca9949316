// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ReadOnlyStore: what a ByteStore is that is only read, but for its size and its
// bytes: whatever would change it is refused, with one sentence (Errc::read_only).

#pragma once

#include "core/base/byte_store.h"

namespace qcow2 {

class ReadOnlyStore : public ByteStore {
public:
    // why: the sentence; must outlive the store.
    explicit ReadOnlyStore(const char *why) : why_(why) {}

    std::uint64_t fresh_from() const override { return size(); }
    Result<void> write(std::uint64_t, Bytes) override { return refusal(); }
    Result<void> zero(std::uint64_t, std::uint64_t, bool) override { return refusal(); }
    Result<void> discard(std::uint64_t, std::uint64_t) override { return refusal(); }
    Result<void> flush() override { return {}; }
    bool can_flush() const override { return true; }
    Result<void> grow(std::uint64_t) override { return refusal(); }
    bool can_grow() const override { return false; }
    Result<void> cut(std::uint64_t) override { return refusal(); }
    bool read_only() const override { return true; }

protected:
    Error refusal() const { return {Errc::read_only, why_}; }

private:
    const char *const why_;
};

}  // namespace qcow2
