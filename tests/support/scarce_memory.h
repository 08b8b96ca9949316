// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Memory that ends, and is counted. Who uses this has its own operator new in
// the whole program.
//
//     memory_left = 3;         // the third thing from here on gets none
//     ...
//     memory_left = 0;

#pragma once

#include <cstdint>

namespace qcow2::test {

// How many more things of this thread there is memory for; 0: any number.
extern thread_local std::uint64_t memory_left;

// Bytes that this thread has taken and not given back.
extern thread_local std::int64_t memory_taken;
// The most that this was since it was last set.
extern thread_local std::int64_t memory_taken_most;

// Takes one thing; true if there is no memory for it.
bool no_memory();

}  // namespace qcow2::test
