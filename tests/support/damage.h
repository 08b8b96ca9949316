// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What a crash with lazy refcounts, or a bad neighbour, does to an image: its
// refcounts and bits 63 made wrong at random, and (but for `words`) nothing that
// could not be told from the rest of the image.

#pragma once

#include <ostream>
#include <string>

#include "tests/support/memory_store.h"
#include "tests/support/random.h"

namespace qcow2::test {

enum class Damage {
    tables,     // of L2 tables, and bits 63 in L1 clear there: what a crash may leave
    leaks,      // refcounts too high, by one or more
    shares,     // and bits 63 clear there, as if a snapshot had been: leaks, too
    counts,     // too low as well
    bits,       // and bit 63 of the active tree
    structure,  // and blocks gone or misplaced, or the table
    words,      // and any word of any table; the file may be cut
};
inline std::ostream &operator<<(std::ostream &out, Damage kind)
{
    constexpr const char *words[] = {"tables", "leaks",     "shares", "counts",
                                     "bits",   "structure", "words"};
    return out << words[static_cast<int>(kind)];
}

// Sets the dirty bit with all but the first two (version 3). What was done, in
// words. After `words` not all can be mended.
std::string damage(MemoryStore &store, Random &random, Damage kind);

}  // namespace qcow2::test
