// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Backing: what an image shows where it has nothing of its own. Read-only; the
// files under it are opened only through a FileOpener, which the roof gives.
//
// Any thread.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/byte_store.h"
#include "core/format/extensions.h"
#include "core/image/extent.h"

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

class Backing {
public:
    virtual ~Backing() = default;

    virtual std::uint64_t size() const = 0;  // bytes
    // The range lies inside size().
    virtual Result<void> read(std::uint64_t offset, MutableBytes bytes) = 0;
    // The first extent from the offset on, at most length_max (not 0) long.
    virtual Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) = 0;
};

// Opens what the header area names; nullptr if it names nothing. cache_bytes
// is for a qcow2 image there, and for what is below that one.
Result<std::unique_ptr<Backing>> open_backing(const HeaderArea &area, const ChainPlace &place,
                                              std::uint64_t cache_bytes);

}  // namespace qcow2
