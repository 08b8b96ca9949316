// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What a crash with lazy refcounts, or a bad neighbour, does to an image: its
// refcounts and bits 63 made wrong at random, and nothing that could not be
// told from the rest of the image.

#pragma once

#include <ostream>
#include <string>

#include "tests/support/memory_store.h"
#include "tests/support/random.h"

namespace qcow2::test {

enum class Damage {
    leaks,      // refcounts too high, by one or more
    counts,     // too low as well
    bits,       // and bit 63 of the active tree
    structure,  // and blocks gone or misplaced, or the table
};
inline std::ostream &operator<<(std::ostream &out, Damage kind)
{
    constexpr const char *words[] = {"leaks", "counts", "bits", "structure"};
    return out << words[static_cast<int>(kind)];
}

// Sets the dirty bit with all but `leaks` (version 3). What was done, in words.
std::string damage(MemoryStore &store, Random &random, Damage kind);

}  // namespace qcow2::test
