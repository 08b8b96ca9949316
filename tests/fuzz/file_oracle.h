// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What must hold of an image's file, looked at without a disk: if it was sound it stays
// so, no bytes of the guest come to lie in a table, and a repair makes nothing worse.

#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "core/check/repair.h"
#include "tests/support/memory_store.h"

namespace qcow2::test {

constexpr std::uint8_t guest_byte = 0xa5;  // all that the guest writes

class FileOracle {
public:
    // As the file is now. The store must outlive it.
    explicit FileOracle(MemoryStore &store);

    bool sound() const { return sound_; }
    std::string at;  // where we are, for who reads what is wrong

    void require_now(bool is_so, const std::string &what, const std::string &more = {}) const;
    // What is a table now, and nothing else, is one for check_tables().
    void note_tables() { tables_before_ = tables(); }
    void check_tables() const;
    // Of one that was sound; leaks: there may be some.
    void check(bool leaks) const;
    // A copy is repaired, twice.
    void check_repair(RepairKind kind) const;

private:
    // By cluster: whether it has bytes of the guest.
    using Tables = std::map<std::uint64_t, bool>;

    Tables tables() const;

    MemoryStore &store_;
    bool sound_ = false;
    Tables tables_before_;
};

}  // namespace qcow2::test
