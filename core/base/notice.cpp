// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/notice.h"

namespace qcow2 {

namespace {

NoticeSink notice_sink = nullptr;

}  // namespace

void set_notice_sink(NoticeSink sink) { notice_sink = sink; }

void notify(const Notice &notice)
{
    if (notice_sink)
        notice_sink(notice);
}

}  // namespace qcow2
