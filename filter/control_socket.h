// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ControlSocket: the socket that qcow2-control= names. Who may connect to it may
// do anything to the disk, so its mode is 0600 from the beginning.
//
// A socket on which nobody answers was left behind by a server that was killed,
// and is replaced. Where somebody answers, or something else has the name, it is
// refused. One thread.

#pragma once

#include <memory>
#include <string>

#include <sys/types.h>

#include "core/base/result.h"

namespace qcow2 {

class ControlSocket {
public:
    // Bound, and listening. path: absolute. Errors say the path and what helps.
    static Result<std::unique_ptr<ControlSocket>> bind(const std::string &path);
    // Takes its name away, if it is still its own.
    ~ControlSocket();
    ControlSocket(const ControlSocket &) = delete;
    ControlSocket &operator=(const ControlSocket &) = delete;

    // Where clients are accepted; never blocks.
    int descriptor() const { return descriptor_; }

private:
    ControlSocket(std::string path, int descriptor)
        : path_(std::move(path)), descriptor_(descriptor)
    {
    }

    const std::string path_;
    const int descriptor_;
    // Of the name.
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

}  // namespace qcow2
