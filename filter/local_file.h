// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// LocalFile: the file that file= or fd= named, through a descriptor of our
// own: to check the image at the prompt, to carry the locks, to make the file
// longer. The data of the image never goes this way. And files that others
// keep bytes in.
//
// Any thread; the descriptor is opened once and kept.

#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "core/base/byte_store.h"
#include "core/base/bytes.h"
#include "core/base/result.h"

namespace qcow2 {

class LocalFile {
public:
    // A regular file or a block device; anything else is invalid. For writing
    // if that is permitted.
    static Result<std::unique_ptr<LocalFile>> open(const std::string &path);
    // The same for an absolute path without symbolic links, below a directory,
    // which it does not leave even if somebody changes the path meanwhile
    // (openat2). directory: a descriptor of it; rest: the path from there.
    static Result<std::unique_ptr<LocalFile>> open_beneath(int directory, const std::string &rest,
                                                           const std::string &path, bool writable);
    // A new, empty one in this directory, without a name: it is gone when it is closed. path()
    // is the directory.
    static Result<std::unique_ptr<LocalFile>> make_temporary(const std::string &directory);
    ~LocalFile();
    LocalFile(const LocalFile &) = delete;
    LocalFile &operator=(const LocalFile &) = delete;

    int descriptor() const { return descriptor_; }
    const std::string &path() const { return path_; }
    bool regular() const { return S_ISREG(status_.st_mode); }
    bool writable() const { return why_not_writable_ == 0; }
    // The errno with which opening it for writing failed.
    int why_not_writable() const { return why_not_writable_; }

    Result<std::uint64_t> length() const;
    // The path leads to this very file now. False too if that cannot be found out.
    bool still_named() const;

    // The other descriptors of this process that are open on this very file, which
    // are the layer's. Where none is left to ask /proc with, it takes milliseconds.
    struct Holders {
        unsigned reading = 0, writing = 0;
        bool all_seen = true;  // false: there may be more

        // False, too, if that is not certain.
        bool one_more_writes_than(const Holders &before) const
        {
            return before.all_seen && writing == before.writing + 1;
        }
    };
    Holders holders() const;
    enum class Held { no, for_reading, for_writing, unknown };
    Held held_by_layer() const;

    // The same for two names of one file, or two nodes of one block device.
    std::string identity() const { return identity_of(status_); }
    static std::string identity_of(const struct stat &status);

    // Past the end is an error.
    Result<void> read(std::uint64_t offset, MutableBytes bytes) const;
    Result<void> write(std::uint64_t offset, Bytes bytes);
    // fdatasync.
    Result<void> flush();
    // no_space if the file system or a limit of the process says so.
    Result<void> truncate(std::uint64_t length);
    // Makes a hole, which reads as zeros; the length stays. unsupported where
    // there are none, as there may be none on a block device if the range is not
    // one of whole blocks.
    Result<void> punch(std::uint64_t offset, std::uint64_t length);
    // Zeros that keep their room, under the same conditions.
    Result<void> zero(std::uint64_t offset, std::uint64_t length);
    // SEEK_HOLE and SEEK_DATA; data where there is no telling.
    ByteStore::Stretch stretch(std::uint64_t offset, std::uint64_t length_max) const;

private:
    Result<void> allocate(int mode, const char *what, std::uint64_t offset, std::uint64_t length);
    static Result<std::unique_ptr<LocalFile>> adopt(const std::string &path, int descriptor,
                                                    int why_not_writable);
    LocalFile(std::string path, int descriptor, int why_not_writable, const struct stat &status);
    bool is_same(const struct stat &other) const;
    void count_holder(int descriptor, Holders &holders) const;
    bool count_listed(Holders &holders) const;
    Error failed(const std::string &what, int cause) const;

    const std::string path_;
    const int descriptor_;
    const int why_not_writable_;
    const struct stat status_;  // as it was when opened
};

}  // namespace qcow2
