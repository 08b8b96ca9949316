// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Aside: what a structural change prepares before it takes effect (rule H1).
//
//     Aside aside(image);
//     const HostOffset table = TRY(aside.write(bytes));
//     aside.replace(old_table);
//     TRY(aside.commit([&](HeaderArea &area) { ...names table... }));
//
// Clusters that are taken here have a refcount that is durably 1, and no name
// (W1). One write of the header sector names them all; then what they replace
// goes (W3). If the change is given up, or the commit fails and the old header
// is known to be there, the destructor gives everything back.
//
// One thread, while nobody else changes the structure of the image.

#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "core/image/image.h"

namespace qcow2 {

// Requests may pass while something is prepared, those that leave what the image says of itself
// as it is. Called before the commit, and before anything is changed in place: returns when
// nobody else is inside, and nobody comes before the end. If it fails nothing may be changed.
using BecomeAlone = std::function<Result<void>()>;

class Aside {
public:
    explicit Aside(Image &image) : image_(image) {}
    ~Aside();
    Aside(const Aside &) = delete;
    Aside &operator=(const Aside &) = delete;

    // So many clusters side by side. They hold anything: write all of them.
    Result<HostRun> take(std::uint64_t count);
    // Takes clusters for these bytes (not none) and writes them, padded with
    // zeros to the end of the last cluster. Durable with commit().
    Result<HostOffset> write(Buffer bytes);

    // To be lowered after the commit, by one.
    void replace(HostRun old);
    // These are lowered by the caller, by the same commit (NewRefcounts).
    std::vector<HostRun> take_replaced() { return std::exchange(replaced_, {}); }

    // Makes what was written durable, and then the header say the change.
    Result<void> commit(const ImageHeader::Change &change);

private:
    Image &image_;
    std::vector<HostRun> taken_;
    std::vector<HostRun> replaced_;
};

}  // namespace qcow2
