// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A fuzzer's bytes as an image from anybody: a sound one, and what is written over it,
// where tables and names stand more often than elsewhere.

#pragma once

#include "tests/fuzz/input.h"
#include "tests/support/memory_store.h"

namespace qcow2::test {

struct FuzzedImage {
    StoreImage image;
    bool edited = false;  // something was written over it
};

// Takes what it needs of the input.
FuzzedImage image_by(FuzzInput &input);

}  // namespace qcow2::test
