// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ServerUser: who the server will be. nbdkit takes the user and the group of -u and -g on
// when all filters and plugins are ready, after the prompt. What is opened for a client is
// opened as that user; so what is checked at the prompt is opened as that user, too. (By
// experiment with 1.32: -u sets the user IDs alone and leaves the groups; -g sets the group
// IDs and makes that group the only one.)

#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace qcow2 {

class ServerUser {
public:
    // The process as it is.
    ServerUser() = default;
    // What these arguments of nbdkit say. It is not changed where nbdkit would refuse: by who
    // is not the superuser, or to names that nobody has.
    static ServerUser of(std::span<const std::string> arguments);

    bool changes() const { return user_ || group_; }
    // The effective IDs of this process are those of that user as long as it lives. No other
    // thread may be at work; one at a time.
    class Scope {
    public:
        explicit Scope(const ServerUser &user);
        ~Scope();
        Scope(const Scope &) = delete;
        Scope &operator=(const Scope &) = delete;

    private:
        void restore();

        const bool changed_;
        const uid_t user_;
        const gid_t group_;
        std::vector<gid_t> groups_;
    };

private:
    std::optional<uid_t> user_;
    std::optional<gid_t> group_;
    std::string words_;  // "user nobody (-u)"
};

// An errno in words. Where something is not permitted in a Scope: to whom.
std::string words_for_errno(int cause);

}  // namespace qcow2
