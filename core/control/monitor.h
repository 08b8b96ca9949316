// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Monitor: the conversation with one client, in QMP as qemu-storage-daemon has it.
// Bytes in, bytes out, and no I/O:
//
//     send(Monitor::greeting());
//     monitor.take(received);
//     while (auto turn = monitor.next())
//         send(turn->command ? answer(turn->id, run(*turn)) : turn->answer);
//
// Each message to the client is one line of ASCII JSON, ended by CR LF. Requests
// are answered in order. What is wrong with one is an answer, too, and all that
// can be told of it without doing anything is told before anything is done: that
// it is no JSON, that there is no such command, that an argument is missing or of
// the wrong type. Only what passes the limits of Framing ends the conversation.
//
// One thread, but for the static functions.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/control/command.h"
#include "core/control/framing.h"

namespace qcow2 {

class Monitor {
public:
    struct Turn {
        std::string answer;                // to be sent, if there is no command
        const Command *command = nullptr;  // to be run, then answered
        Json arguments;
        std::optional<Json> id;  // of the request: any value, or none
    };

    static std::string greeting();
    // The answer to a request, done or refused.
    static std::string answer(const std::optional<Json> &id, const Result<Json> &done);
    // seconds, microseconds: since 1970.
    static std::string event(std::string_view name, const Json &data, std::int64_t seconds,
                             std::int64_t microseconds);

    // What the client has sent, any part of it.
    void take(std::string_view bytes) { input_.append(bytes); }
    // The next request, as far as it can be answered; nullopt: its end has not come.
    std::optional<Turn> next();

    // Capabilities have been negotiated: the client may be told of events.
    bool negotiated() const { return negotiated_; }
    // Nothing more will be taken: the connection is to end.
    bool ended() const { return ended_; }

private:
    Turn turn_for(const Framing::Frame &frame);
    Turn turn_for(Json request);

    Framing framing_;
    std::string input_;  // from position_ on, not yet looked at
    std::size_t position_ = 0;
    bool negotiated_ = false;
    bool ended_ = false;
};

}  // namespace qcow2
