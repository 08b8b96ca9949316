// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// NamedFiles: opens the files that an image names (backing files, external data
// file) if they lie below a directory that the user gave by qcow2-files=.
//
// An image may come from anybody, so the names in it are not trusted: the path
// is resolved first (no "..", no symbolic link that leads out), compared with
// the directories, and then opened from the directory without following any
// link, so that nobody can put another file there in between.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/image/named_file.h"

namespace qcow2 {

class NamedFiles : public FileOpener {
public:
    ~NamedFiles() override;

    // qcow2-files=DIR, an absolute path. invalid: it is no directory.
    Result<void> allow(const std::string &directory);
    // qcow2-lock=off.
    void do_not_lock() { lock_ = false; }

    // Files are locked as QEMU locks them.
    Result<NamedFile> open(const std::string &name, const ChainPlace &namer,
                           bool writable) override;

protected:
    // The path with all links followed; read_only if it is not there and not
    // below a directory either. A test changes the files after this.
    virtual Result<std::string> resolve(const std::string &path) const;

private:
    struct Directory {
        std::string path;  // resolved
        int descriptor;
    };

    Result<NamedFile> open_path(const std::string &name, const ChainPlace &namer, bool writable);
    const Directory *directory_of(const std::string &path) const;

    std::vector<Directory> directories_;
    bool lock_ = true;
};

}  // namespace qcow2
