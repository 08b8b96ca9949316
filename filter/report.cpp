// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/report.h"

#include <cerrno>

#include <nbdkit-filter.h>

// -D qcow2bitmap.bitmaps=1 (with -v): each time bits are made durable ahead of
// changes: what was armed, who waited, and for how long.
extern "C" {
NBDKIT_DLL_PUBLIC extern int qcow2bitmap_debug_bitmaps;
int qcow2bitmap_debug_bitmaps = 0;
}

namespace qcow2 {

int to_errno(Errc code)
{
    switch (code) {
    case Errc::io: return EIO;
    case Errc::lost: return EIO;
    case Errc::no_space: return ENOSPC;
    case Errc::corrupt: return EIO;
    case Errc::unsupported: return EIO;
    case Errc::read_only: return EROFS;
    case Errc::busy: return EBUSY;
    case Errc::not_found: return ENOENT;
    case Errc::exists: return EEXIST;
    case Errc::invalid: return EINVAL;
    }
    return EIO;
}

void report(const Error &error) { nbdkit_error("%s", error.what.c_str()); }

void log_to_nbdkit(LogLevel level, const std::string &line)
{
    switch (level) {
    case LogLevel::detail:
        if (qcow2bitmap_debug_bitmaps)
            nbdkit_debug("%s", line.c_str());
        break;
    case LogLevel::debug: nbdkit_debug("%s", line.c_str()); break;
    case LogLevel::warning: nbdkit_error("warning: %s", line.c_str()); break;
    }
}

}  // namespace qcow2
