// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/mutex.h"

#include <cstdint>

#include "core/base/invariant.h"

namespace qcow2 {

#ifdef QCOW2_CHECK_LOCKS
namespace {

// One bit for each rank that this thread holds. (In the block of thread-local
// memory that there is from the start: so that it costs no call, even in a library
// that is loaded later.)
[[gnu::tls_model("initial-exec")]] thread_local std::uint32_t held_ranks = 0;

std::uint32_t bit(Rank rank) { return std::uint32_t(1) << static_cast<unsigned>(rank); }

}  // namespace
#endif

void Mutex::lock()
{
#ifdef QCOW2_CHECK_LOCKS
    INVARIANT(held_ranks < bit(rank_));  // only outer ranks are held
    held_ranks |= bit(rank_);
#endif
    mutex_.lock();
}

void Mutex::unlock()
{
    mutex_.unlock();
#ifdef QCOW2_CHECK_LOCKS
    held_ranks &= ~bit(rank_);
#endif
}

}  // namespace qcow2
