// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The refcounts of many clusters changed where they are, for a structural change that
// has no room for another refcount structure (NewRefcounts): those that rise before it
// takes effect (W1), those that fall after it (W3).
//
// One thread, on an image that is settled.

#pragma once

#include "core/image/image.h"
#include "core/structure/count_changes.h"

namespace qcow2 {

// All or nothing; durable.
Result<void> raise_counts(Image &image, const CountChanges &changes);
// Back again, if the change did not take effect.
void unraise_counts(Image &image, const CountChanges &changes);
// What nothing counts any more is punched out.
void lower_counts(Image &image, const CountChanges &changes);

}  // namespace qcow2
