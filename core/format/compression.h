// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// One compressed cluster: bytes in the file -> bytes of the guest. Pure; any
// thread.

#pragma once

#include <cstdint>

#include "core/base/bytes.h"
#include "core/base/result.h"

namespace qcow2 {

// The header's compression_type.
enum class CompressionType : std::uint8_t {
    deflate = 0,  // raw (RFC 1951), window of 12 bits
    zstd = 1,     // RFC 8878
};

// Fills the whole cluster. `bytes` is all that the descriptor allows; what
// stands behind the compressed data belongs to somebody else and is not
// looked at. corrupt: the stream is broken, or ends too early.
Result<void> decompress(CompressionType type, Bytes bytes, MutableBytes cluster);

}  // namespace qcow2
