// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// When an enabled bitmap in the file is true (core/README.md, "How a bitmap survives").

#pragma once

namespace qcow2 {

enum class BitmapSync {
    durable,   // at every instant it covers what has changed (B2)
    on_close,  // when nobody writes; marked in_use meanwhile (B1)
};

}  // namespace qcow2
