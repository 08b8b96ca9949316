// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// TemporaryFolder: a folder of its own, that goes with the scope and all that is in it.

#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

namespace qcow2::test {

class TemporaryFolder {
public:
    TemporaryFolder()
    {
        namespace fs = std::filesystem;
        path_ = (fs::canonical(fs::temp_directory_path()) / "qcow2bitmap-test.XXXXXX").string();
        if (!::mkdtemp(path_.data()))
            throw std::runtime_error("cannot make a folder like " + path_);
    }
    ~TemporaryFolder()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder &) = delete;
    TemporaryFolder &operator=(const TemporaryFolder &) = delete;

    // Absolute, without links.
    const std::string &path() const { return path_; }

private:
    std::string path_;
};

}  // namespace qcow2::test
