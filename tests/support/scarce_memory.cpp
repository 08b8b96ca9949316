// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/scarce_memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include <malloc.h>

namespace qcow2::test {

thread_local std::uint64_t memory_left = 0;
thread_local std::int64_t memory_taken = 0;
thread_local std::int64_t memory_taken_most = 0;

bool no_memory() { return memory_left != 0 && --memory_left == 0; }

}  // namespace qcow2::test

using namespace qcow2::test;

[[gnu::noinline]] void *operator new(std::size_t size)
{
    void *const memory = no_memory() ? nullptr : std::malloc(size);
    if (!memory)
        throw std::bad_alloc();
    memory_taken += std::int64_t(malloc_usable_size(memory));
    memory_taken_most = std::max(memory_taken_most, memory_taken);
    return memory;
}

[[gnu::noinline]] void operator delete(void *memory) noexcept
{
    memory_taken -= std::int64_t(malloc_usable_size(memory));
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void *memory, std::size_t) noexcept
{
    operator delete(memory);
}
