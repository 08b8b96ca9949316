// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ControlEvents: what clients of the control channel are told without having
// asked. Any thread; waits for nobody.

#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "core/base/notice.h"
#include "core/base/result.h"
#include "core/control/json.h"

namespace qcow2 {

class ControlServer;

class ControlEvents {
public:
    // The server outlives it.
    explicit ControlEvents(ControlServer &server) : server_(server) {}

    void tell(const Notice &notice);
    // A request (read, write) was answered with an error. A guest that goes on trying
    // makes thousands: of one kind one is told in a second.
    void tell_of_failure(std::string_view operation, const Error &error);

private:
    bool is_new(const std::string &kind);

    ControlServer &server_;
    std::mutex mutex_;
    std::map<std::string, std::chrono::steady_clock::time_point> told_;  // when, by their kind
};

}  // namespace qcow2
