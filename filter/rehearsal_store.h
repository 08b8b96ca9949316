// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// RehearsalStore: a store that is to be read only, and what somebody would write to
// it, in memory. So it is known at the prompt how a change will end, with not one
// byte changed. It never grows: its user is a store of fixed size.
//
// One thread at a time.

#pragma once

#include <cstdint>
#include <map>

#include "core/base/byte_store.h"
#include "core/base/range.h"

namespace qcow2 {

class RehearsalStore final : public ByteStore {
public:
    // The real one must outlive this.
    explicit RehearsalStore(ByteStore &real) : real_(real) {}

    std::uint64_t size() const override { return real_.size(); }
    std::uint64_t fresh_from() const override { return real_.size(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) override;
    // It is not known what they read as then: so they may stay.
    Result<void> discard(std::uint64_t, std::uint64_t) override { return {}; }
    Result<void> flush() override { return {}; }
    bool can_flush() const override { return true; }
    Result<void> grow(std::uint64_t size_min) override;
    bool can_grow() const override { return false; }
    Result<void> cut(std::uint64_t) override { return {}; }
    bool read_only() const override { return false; }

private:
    // Calls for each page that the range touches: number of the page, the part of
    // the range that is in it.
    template <class Visit>
    Result<void> for_each_page(Range range, Visit visit) const;
    Result<Buffer *> changed_page(std::uint64_t number);

    ByteStore &real_;
    std::map<std::uint64_t, Buffer> changed_;  // pages, whole
};

}  // namespace qcow2
