// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// INVARIANT(condition): our own mistakes, checked in every build. A storage
// engine that has lost its mind stops, and the server with it.
//
// What comes from a file, a client or a device is never an invariant.

#pragma once

#include <cstdio>
#include <cstdlib>

#define INVARIANT(condition)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            std::fprintf(stderr, "qcow2bitmap: %s:%d: invariant broken: %s\n", __FILE__, __LINE__, \
                         #condition);                                                              \
            std::abort();                                                                          \
        }                                                                                          \
    } while (0)
