// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The header's fields, changed by one durable write of the one sector that they
// stand in (H1). Extensions are not touched.

#pragma once

#include <algorithm>

#include "core/base/byte_store.h"
#include "core/format/header.h"
#include "core/format/limits.h"

namespace qcow2 {

template <class Change>
Result<void> change_header(ByteStore &store, Change change)
{
    Buffer bytes(sizeof(on_disk::Header));
    TRY(store.read(0, bytes));
    Header header = TRY(
        decode_header(sub(Bytes(bytes), 0, std::min<std::uint64_t>(bytes.size(), store.size()))));
    bytes.resize(header.geometry().cluster_size());  // it may be longer than we know
    TRY(store.read(0, bytes));
    change(header);
    encode_header(header, bytes);
    return store.write_durable(0, sub(Bytes(bytes), 0, limits::sector)).in("header");
}

}  // namespace qcow2
