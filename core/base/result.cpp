// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/result.h"

namespace qcow2 {

std::string_view to_string(Errc code)
{
    switch (code) {
    case Errc::io: return "io";
    case Errc::lost: return "lost";
    case Errc::no_space: return "no_space";
    case Errc::corrupt: return "corrupt";
    case Errc::unsupported: return "unsupported";
    case Errc::read_only: return "read_only";
    case Errc::busy: return "busy";
    case Errc::not_found: return "not_found";
    case Errc::exists: return "exists";
    case Errc::invalid: return "invalid";
    case Errc::shut_down: return "shut_down";
    }
    return "?";
}

}  // namespace qcow2
