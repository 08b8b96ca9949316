// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images to be repaired.

#pragma once

#include "core/check/repair.h"

#include "core/format/header.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"
#include "tests/unit/check/checked.h"

namespace repair_test {

using namespace qcow2;
using namespace qcow2::test;

inline ImageSpec plain_spec() { return check_::bitmap_spec(); }
inline ImageSpec snapshot_spec() { return check_::with_snapshot(plain_spec()); }

inline Header header_of(ByteStore &store)
{
    Buffer bytes(sizeof(on_disk::Header));
    must(store.read(0, bytes));
    return must(decode_header(bytes));
}

// The image with everything wrong that `all` mends.
inline void make_ill(Patient &patient)
{
    patient.set_refcount(patient.host(0), 0);
    patient.set_refcount(patient.host(1), 2);
    patient.set_refcount(patient.new_cluster(), 3);
    patient.put(patient.l2(600), patient.word(patient.l2(600)) & ~entry_copied);
    patient.put_byte(79, 3);
}

}  // namespace repair_test
