// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The other files that an image names: its backing file, its data file. They are
// opened only through a FileOpener, which the roof gives.

#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/byte_store.h"

namespace qcow2 {

// Whether a name that an image has is a path, and not "nbd:", "json:", "https:": what
// QEMU takes for more.
bool is_local_path(std::string_view name);

// A file that an image names, opened.
struct NamedFile {
    std::unique_ptr<ByteStore> store;
    // What it is called in messages: absolute, with all links followed, and quoted
    // where that is needed.
    std::string path;
    // Absolute, as it was named: what names in it are relative to.
    std::string named;
    // The same for two names of one file: a chain that meets itself is a loop.
    std::string identity;
};

class FileOpener;

// Where an image stands in a chain.
struct ChainPlace {
    FileOpener *opener = nullptr;         // nullptr: nothing may be opened
    std::string path;                     // of the image, as it was named; empty: no local file
    std::vector<std::string> identities;  // of all images above it, and of itself

    static constexpr std::size_t depth_max = 200;
};

// Decides which files may be opened, and opens them.
class FileOpener {
public:
    virtual ~FileOpener() = default;

    // name: as the image has it. namer: the image that names it. read_only,
    // not_found, invalid: the error names the file and the parameter that helps.
    // corrupt: it is the namer itself, or an image above that one.
    virtual Result<NamedFile> open(const std::string &name, const ChainPlace &namer,
                                   bool writable) = 0;
};

}  // namespace qcow2
