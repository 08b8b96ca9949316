// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Reads the header area, and no more of cluster 0: a cluster may have 2 MiB, and the area of
// nearly every image has some hundred bytes. On this floor all else is pure.
//
// Any thread. Errors: the store's, and those of decode_header_area().

#pragma once

#include "core/base/byte_store.h"
#include "core/format/extensions.h"

namespace qcow2 {

// The first 4096 bytes of a file, or all of a shorter one.
Result<Buffer> read_beginning(ByteStore &store);

// The area that begins with these bytes. Afterwards they are of cluster 0 alone, and all of the
// area is among them: where it is longer, the rest of the cluster was read.
Result<HeaderArea> read_header_area(ByteStore &store, Buffer &beginning);

}  // namespace qcow2
