// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What filter/ calls of nbdkit, without a server: messages, parsers, and a next
// layer that is as strict as the real one. Where nbdkit would stop the server
// (a request past the size of the context, a question that was not asked), a
// fake context aborts.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <nbdkit-filter.h>

#include "core/base/bytes.h"
#include "core/base/range.h"
#include "filter/local_file.h"
#include "tests/unit/filter/fake_bytes.h"

namespace qcow2::test {

// What was said by nbdkit_error since the last call.
std::vector<std::string> said();

// Whether the server has got a signal.
inline std::atomic<bool> told_to_end{false};

struct FakeLayer {
    explicit FakeLayer(FakeBytes &bytes) : bytes(bytes) {}

    nbdkit_backend *backend() { return reinterpret_cast<nbdkit_backend *>(this); }

    FakeBytes &bytes;

    // What it says of itself.
    std::uint32_t minimum = 0, preferred = 0, maximum = 0;
    bool writable = true, flushes = true, trims = true, multi_conn = true;
    int zeroes = NBDKIT_ZERO_NATIVE;
    std::optional<Range> hole;  // the only one; nullopt: it does not tell
    std::int64_t size_is = -1;  // not that of the bytes

    // What it does, besides what is asked.
    std::function<int(const char *call, const Range &range)> before;  // an errno refuses
    std::atomic<unsigned> contexts_open{0}, contexts_opened{0}, flushes_done{0};
    std::atomic<unsigned> calls_at_once{0}, calls_at_once_max{0};

    std::mutex mutex;
    std::vector<std::string> calls;  // "pwrite 0x200 +512"
};

}  // namespace qcow2::test
