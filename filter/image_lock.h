// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ImageLock: the locks by which QEMU and we keep each other off one file.
//
// They are shared locks of the open file description (F_OFD_SETLK) on single
// bytes. Byte 100 + n says "I use permission n", byte 200 + n "I do not share
// permission n" (0: consistent read, 1: write, 3: resize). Each side takes its
// own and then looks whether somebody else has the opposite one. Measured with
// QEMU 7.2: a writer holds 100, 101, 103, 201, 203; a reader 100, 201, 203.
//
// They belong to the descriptor, survive fork, and go with the process. One
// thread at a time.

#pragma once

#include "core/base/result.h"

namespace qcow2 {

class LocalFile;

class ImageLock {
public:
    enum class Kind { none, reader, writer };

    // The file must live as long as locks are held on it.
    explicit ImageLock(const LocalFile &file) : file_(file) {}
    ~ImageLock();
    ImageLock(const ImageLock &) = delete;
    ImageLock &operator=(const ImageLock &) = delete;

    // Takes the locks of this kind in place of those that are held. On failure
    // what was held is still held. busy: somebody else has the file. A file
    // system that has no locks is warned of, and is no failure.
    Result<void> take(Kind kind);
    Kind kind() const { return kind_; }

private:
    Result<void> lock(int byte);
    void unlock(int byte);
    bool held_by_others(int byte) const;
    Result<void> look_for_others(Kind kind) const;

    const LocalFile &file_;
    Kind kind_ = Kind::none;
    bool no_locks_here_ = false;
};

}  // namespace qcow2
