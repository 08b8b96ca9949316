// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Export: what one client is served under a name: the disk itself, or something
// that is only read (exports.h tells which there are). Each connection has one of
// its own, and keeps it until it ends.
//
// Any thread. Ranges lie inside size(), which stays the same for a connection as
// the client sees it. The errors are those of core/disk.h.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/result.h"
#include "core/disk.h"
#include "core/format/units.h"
#include "core/image/extent.h"

namespace qcow2 {

// One that a client may ask for. Names are UTF-8 without anything that is not seen.
struct ExportName {
    std::string name;
    std::string description;

    // NBD's limit; and less than nbdkit's for a list, which fails as a whole above it.
    static constexpr std::size_t bytes_max = 4096;
    static constexpr std::size_t listed_max = 9000;
};

class Export {
public:
    virtual ~Export() = default;

    virtual std::uint64_t size() const = 0;             // bytes
    virtual std::uint32_t preferred_block() const = 0;  // bytes, a power of two from 512 to 32M
    virtual std::string description() const = 0;        // a line for people

    virtual Result<void> read(GuestOffset offset, MutableBytes bytes) = 0;
    // Consecutive extents from the offset on; at least one, and they need not cover
    // the range. length is not 0.
    virtual Result<std::vector<Extent>> status(GuestOffset offset, std::uint64_t length) = 0;
    // Reads ahead what a later read of the range needs.
    virtual Result<void> cache(GuestOffset, std::uint64_t) { return {}; }

    // Most are only read.
    virtual bool can_write() const { return false; }
    virtual bool can_flush() const { return false; }
    virtual Result<void> write(GuestOffset, Bytes, bool) { return read_only(); }
    virtual Result<void> zero(GuestOffset, std::uint64_t, ZeroFlags) { return read_only(); }
    virtual Result<void> trim(GuestOffset, std::uint64_t, bool) { return read_only(); }
    virtual Result<void> flush() { return {}; }

private:
    static Error read_only() { return {Errc::read_only, "this export is only read"}; }
};

}  // namespace qcow2
