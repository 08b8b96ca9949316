// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/image_lock.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>

#include "core/base/log.h"
#include "filter/local_file.h"

namespace qcow2 {

namespace {

constexpr int consistent_read = 0, write_data = 1, resize = 3;

constexpr int use(int permission) { return 100 + permission; }
constexpr int refuse(int permission) { return 200 + permission; }
constexpr int opposite(int byte) { return byte < 200 ? byte + 100 : byte - 100; }

// What of it is ours whichever the kind stands first.
constexpr int writer_bytes[] = {use(consistent_read), refuse(write_data), refuse(resize),
                                use(write_data), use(resize)};
constexpr std::size_t reader_count = 3;

std::span<const int> bytes_of(ImageLock::Kind kind)
{
    switch (kind) {
    case ImageLock::Kind::none: return {};
    case ImageLock::Kind::reader: return std::span(writer_bytes).first(reader_count);
    case ImageLock::Kind::writer: return writer_bytes;
    }
    return {};
}

struct flock lock_record(short type, int byte)
{
    struct flock record = {};  // l_pid must be 0
    record.l_type = type;
    record.l_whence = SEEK_SET;
    record.l_start = byte;
    record.l_len = 1;
    return record;
}

// What an errno of F_OFD_SETLK means.
bool is_conflict(int cause) { return cause == EAGAIN || cause == EACCES; }

}  // namespace

ImageLock::~ImageLock()
{
    for (const int byte : bytes_of(kind_))
        unlock(byte);
}

Result<void> ImageLock::lock(int byte)
{
    struct flock record = lock_record(F_RDLCK, byte);
    if (::fcntl(file_.descriptor(), F_OFD_SETLK, &record) == 0)
        return {};
    if (is_conflict(errno))
        return Error(Errc::busy, "{}: another process has locked it for itself", file_.path());
    return Error(Errc::unsupported,
                 "{}: no locks ({}): nothing keeps QEMU and others off this file", file_.path(),
                 std::strerror(errno));
}

void ImageLock::unlock(int byte)
{
    struct flock record = lock_record(F_UNLCK, byte);
    if (::fcntl(file_.descriptor(), F_OFD_SETLK, &record) == -1)
        log_debug("{}: unlocking: {}", file_.path(), std::strerror(errno));
}

bool ImageLock::held_by_others(int byte) const
{
    // A write lock would collide with every lock but our own.
    struct flock record = lock_record(F_WRLCK, byte);
    return ::fcntl(file_.descriptor(), F_OFD_GETLK, &record) == 0 && record.l_type != F_UNLCK;
}

Result<void> ImageLock::look_for_others(Kind kind) const
{
    for (const int byte : bytes_of(kind)) {
        if (!held_by_others(opposite(byte)))
            continue;
        if (opposite(byte) == use(write_data) || opposite(byte) == use(resize))
            return Error(
                Errc::busy,
                "{}: another process has it open for writing, for instance a virtual machine "
                "that runs",
                file_.path());
        return Error(
            Errc::busy,
            "{}: another process reads it and allows nobody to write, for instance qemu-img, "
            "or a second server",
            file_.path());
    }
    return {};
}

Result<void> ImageLock::take(Kind kind)
{
    const auto held = bytes_of(kind_), wanted = bytes_of(kind);
    std::size_t taken = held.size();
    Result<void> done;
    // Our own first, then a look at theirs: of two who do this at once, at
    // least one sees the other.
    while (done && !no_locks_here_ && taken < wanted.size()) {
        done = lock(wanted[taken]);
        taken += done.has_value();
    }
    if (!done && done.error().code == Errc::unsupported) {
        log_warning(done.error().what);
        no_locks_here_ = true;
        done = {};
    }
    if (done && !no_locks_here_)
        done = look_for_others(kind);

    const std::size_t kept = done ? wanted.size() : held.size();
    for (std::size_t i = kept; i < std::max(taken, held.size()); ++i)
        unlock(writer_bytes[i]);
    if (done)
        kind_ = kind;
    return done;
}

}  // namespace qcow2
