// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lost names: words that lead behind the end of the file, as they do where a
// file was cut. What they named is not there, and reading it is an error. That
// must not change when the file grows: zeros, or what somebody else has written
// there, would be taken for it. So before anything is put behind the end each such
// word is put out of reach (format/table_entry.h); then nothing is named there. Two
// kinds stay, and the file must not grow then: what the header names, and what stands
// in a cluster that is named as something else, too.
//
// Refcounts behind the end are left as they are: leaks, like others.
//
// One thread, and nobody else uses the store.

#pragma once

#include <cstdint>
#include <string>

#include "core/base/byte_store.h"
#include "core/base/result.h"

namespace qcow2 {

class ImageWalk;

struct LostNames {
    std::uint64_t count = 0;
    std::string first;  // in words; empty if there is none
};

// Follows every name in the image. Errors: those of check().
Result<LostNames> find_lost_names(ByteStore &store);
// And puts those out of reach that lead behind the end now; durably. They can be
// told in the same words afterwards. corrupt: one of them has to stay; nothing was
// written.
Result<LostNames> put_lost_names_out_of_reach(ByteStore &store);

// The second half of it, after a walk. The walk has to be done again then.
Result<void> put_lost_names_out_of_reach(ByteStore &store, const ImageWalk &walk);

}  // namespace qcow2
