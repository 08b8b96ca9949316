// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// RARE("a bitmap is given up for lack of room (B7)");
//
// Marks a branch that hardly ever runs, and must be right when it does. Each test program
// says which of its marked branches it has been in (tests/support/main.cpp), and
// unit/test-rare-branches holds that the crash and fault tests together have been in all of
// the engine's: one that they reach no more is found when it gets lost, not when it is needed.
//
// Any thread. It costs a store of one byte, where it stands. Not in a template or an inline
// function: the list of the branches is a section of the program, and these have sections of
// their own.

#pragma once

#include <atomic>

namespace qcow2 {

struct RareBranch {
    const char *what;
    std::atomic<bool> *been;
};

// (A sanitizer would put gaps between the members of the list.)
#ifdef __clang__
#define QCOW2_IN_LIST [[gnu::section("qcow2_rare"), gnu::used, clang::no_sanitize("address")]]
#else
#define QCOW2_IN_LIST [[gnu::section("qcow2_rare"), gnu::used]]
#endif

#define RARE(words)                                                            \
    do {                                                                       \
        static constinit std::atomic<bool> been{false};                        \
        QCOW2_IN_LIST static constinit qcow2::RareBranch branch{words, &been}; \
        been.store(true, std::memory_order_relaxed);                           \
    } while (false)

}  // namespace qcow2
