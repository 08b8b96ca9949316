// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Growth: makes the file below longer, behind the back of the layers between,
// if and only if it is proven that what we see is this file, byte for byte:
//
//   1. one regular file was named, and the name still leads to it;
//   2. the layer holds it open for writing;
//   3. the layer is as large as the file is long;
//   4. 512 random bytes, written through the layer into the new end, are found
//      there by our own descriptor, and the new space reads as zeros through
//      the layer.
//
// A right size alone proves nothing: several files side by side, an overlay,
// an encrypted file and a replaced one have it too. Whatever fails is undone.
//
// Used by one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/base/result.h"

namespace qcow2 {

class LocalFile;
class NextContext;

// The lengths to try, the best first. At least one; each is at least size_min.
std::vector<std::uint64_t> growth_steps(std::uint64_t size, std::uint64_t size_min);

class Growth {
public:
    using OpenContext = std::function<Result<std::unique_ptr<NextContext>>()>;

    // The file must outlive this.
    explicit Growth(LocalFile &file) : file_(file) {}

    // What can be told without touching anything: proofs 1 to 3, and that both
    // ways show the same bytes at either end. While nobody writes.
    Result<void> check(NextContext &context) const;

    // A new context of a file that is longer than that of the old one, by
    // size_min at least. no_space, io: not now; unsupported: never again.
    Result<std::unique_ptr<NextContext>> grow(NextContext &old, std::uint64_t size_min,
                                              const OpenContext &open);

    // Gives back what was added from this length on. After all contexts are
    // closed.
    Result<void> cut(std::uint64_t size);

private:
    Result<void> check_file(const NextContext &context) const;
    Result<std::unique_ptr<NextContext>> try_to_grow(std::uint64_t from, std::uint64_t to,
                                                     const OpenContext &open);
    Result<void> prove(NextContext &context, std::uint64_t from, std::uint64_t to);

    LocalFile &file_;
    // Where our growth began, and where it ends; equal if there was none.
    std::uint64_t added_from_ = 0;
    std::uint64_t added_to_ = 0;
};

}  // namespace qcow2
