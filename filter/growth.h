// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Growth: makes the file below longer, behind the back of the layers between,
// if and only if it is proven that what we see is this file, byte for byte:
//
//   1. one regular file was named, which our own descriptor holds;
//   2. the layer holds that very file open for writing, whatever its name is now;
//   3. the layer is as large as the file is long;
//   4. 512 random bytes, written through the layer into the new end, are found
//      there by our own descriptor, and the new space reads as zeros through
//      the layer.
//
// A right size alone proves nothing: several files side by side, an overlay,
// an encrypted file and a replaced one have it too. Whatever fails is undone.
//
// Proof 4 needs a new context, for a context has the size that it was opened with.
// It may not be had: the file has another name now, or there is no descriptor left.
// Then what was added is reached by our own descriptor (NextStore), if it was this
// very file that the layer opened at first, and both showed the same bytes. (That the
// layers between hand on bytes as they are is for the caller to know; modules_below.h.)
//
// "It could not be found out" is not "it is not so": only what is disproved is
// disproved for ever.
//
// A block device does not grow by our doing, but may by somebody else's.
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
    // A context of what has the file's name now.
    using OpenContext = std::function<Result<std::unique_ptr<NextContext>>()>;

    // The file must outlive this. layer_opened_it: when the layer was opened the
    // process had one more descriptor on the file.
    Growth(LocalFile &file, bool layer_opened_it) : file_(file), layer_opened_it_(layer_opened_it)
    {
    }

    // What can be told without touching anything: proofs 1 to 3, and that both
    // ways show the same bytes at either end. While nobody writes. unsupported: it
    // is not so; any other error: not known.
    Result<void> check(NextContext &context);

    struct Grown {
        // nullptr: the layer cannot be opened anew.
        std::unique_ptr<NextContext> context;
        std::uint64_t length = 0;  // of the file
    };
    // Makes the file longer than `size`, which is its length, by size_min at least.
    // old: the layer. open: empty if it is not to be opened anew. no_space, io: not
    // now; unsupported: never again.
    Result<Grown> grow(const NextContext &old, std::uint64_t size, std::uint64_t size_min,
                       const OpenContext &open);
    // For a block device: what has become of it; its length is `size` if nothing has.
    // What is new holds anything.
    Result<Grown> follow(NextContext &old, std::uint64_t size, const OpenContext &open);

    // Gives back what was added from this length on. After all contexts are
    // closed.
    Result<void> cut(std::uint64_t size);

private:
    Result<void> check_file(const NextContext &context, std::uint64_t size) const;
    Result<void> check_ends(NextContext &context, std::uint64_t size) const;
    Result<std::unique_ptr<NextContext>> open_on_file(const OpenContext &open) const;
    Result<Grown> try_to_grow(std::uint64_t from, std::uint64_t to, const OpenContext &open);
    Result<void> prove(NextContext &context, std::uint64_t from, std::uint64_t to);

    bool may_reach_beyond() const { return layer_opened_it_ && ends_compared_; }

    LocalFile &file_;
    const bool layer_opened_it_;
    bool ends_compared_ = false;
    // Where our growth began, and where it ends; equal if there was none.
    std::uint64_t added_from_ = 0;
    std::uint64_t added_to_ = 0;
};

}  // namespace qcow2
