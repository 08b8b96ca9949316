// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// qemu-img as the judge of an image in memory, by way of a temporary file.

#pragma once

#include <string>

#include "tests/support/memory_store.h"

namespace qcow2::test {

// False if it is not installed: then the judgement is skipped.
bool have_qemu_img();

struct Judgement {
    int status = -1;  // qemu-img check: 0 clean, 2 corruption, 3 leaks only
    std::string output;
};

Judgement qemu_img_check(const StoreImage &image);

// Writes the image to a file, sparse.
bool dump(const StoreImage &image, const std::string &path);

// Keeps the image for a person to look at if QCOW2_KEEP names a directory;
// says where, or how to.
std::string keep(const StoreImage &image, const std::string &name);

}  // namespace qcow2::test
