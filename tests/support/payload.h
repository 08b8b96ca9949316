// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Bytes that tell on us: each 16 bytes hold their own guest offset and a
// generation, so that permuted, aliased or stale clusters show where they came
// from.

#pragma once

#include <cstdint>
#include <string>

#include "core/base/bytes.h"
#include "core/format/units.h"

namespace qcow2::test {

// What a write of this generation puts there. Offsets need not be aligned: the
// byte at an offset depends on the offset and the generation alone. Never zero
// as a whole unit.
void fill_payload(GuestOffset offset, MutableBytes bytes, std::uint32_t generation);
Buffer payload(GuestOffset offset, std::uint64_t length, std::uint32_t generation);

// "zeros", "offset 0x1000 generation 7", or the bytes: of the 16 bytes there.
std::string describe_payload(Bytes unit);

// The first place at which the two differ, with what is expected and found in
// words; empty if they are equal. `offset` is where both begin.
std::string payload_difference(GuestOffset offset, Bytes expected, Bytes found);

}  // namespace qcow2::test
