// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Names of other files, as an image from anybody has them, and a folder that is allowed,
// with links that lead in, out and nowhere: what is opened lies in the folder, and what is
// said of the rest can be printed.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "filter/named_files.h"
#include "tests/fuzz/input.h"
#include "tests/support/temporary_folder.h"

namespace qcow2::test {

namespace {

namespace fs = std::filesystem;

// FOLDER/in is allowed; FOLDER/out and FOLDER/in2 are not. The files in it say "i", all others "o".
class Folders : public TemporaryFolder {
public:
    Folders()
    {
        for (const char *side : {"in", "in2", "out"}) {
            const std::string folder = path() + "/" + side;
            fs::create_directories(folder + "/sub");
            for (const char *name : {"/file", "/sub/file", "/file:file", "/json:file"})
                std::ofstream(folder + name) << (side == std::string("in") ? 'i' : 'o');
        }
        fs::create_symlink("sub/file", path() + "/in/link");
        fs::create_symlink("../out/file", path() + "/in/sub/out");
        fs::create_symlink(path() + "/out", path() + "/in/away");
        fs::create_symlink("../in", path() + "/out/back");
        fs::create_symlink("..", path() + "/in/up");
        fs::create_symlink("loop", path() + "/in/loop");
        fs::create_symlink("nowhere", path() + "/in/dangling");
    }
};

// A byte below 30 stands for a part of a path, all others for themselves.
std::string spelled(Bytes bytes, const std::string &folder)
{
    const std::string parts[] = {"/",
                                 "..",
                                 "../",
                                 ".",
                                 "in",
                                 "in2",
                                 "out",
                                 "sub",
                                 "file",
                                 "link",
                                 "away",
                                 "back",
                                 "up",
                                 "loop",
                                 "dangling",
                                 "file:",
                                 "json:",
                                 "nbd:",
                                 folder,
                                 folder + "/in/",
                                 "//",
                                 "/../",
                                 "/./",
                                 "~",
                                 "%2e",
                                 "\n",
                                 "\x1b[0m",
                                 "\xff",
                                 "/proc/self/cwd",
                                 "/dev/stdin"};
    std::string text;
    for (const std::uint8_t byte : bytes)
        if (byte < std::size(parts))
            text += parts[byte];
        else
            text += static_cast<char>(byte);
    return text;
}

}  // namespace

// The first byte is whether the file is to be written to, the second how long the name of the
// namer is; both names follow.
void fuzz_names(const std::uint8_t *data, std::size_t size)
{
    static const Folders folders;
    FuzzInput input(data, size);
    const bool writable = input.one_in(2);
    const std::uint64_t wanted = input.below(32);
    const Bytes names = input.rest();
    const std::uint64_t length = std::min<std::uint64_t>(wanted, names.size());
    const std::string namer = spelled(names.first(length), folders.path());
    const std::string name = spelled(names.subspan(length), folders.path());

    NamedFiles files;
    require(files.allow(folders.path() + "/in").has_value(), "not allowed");
    const auto opened = files.open(name, {nullptr, folders.path() + "/" + namer, {}}, writable);
    if (!opened) {
        require(std::ranges::none_of(opened.error().what,
                                     [](unsigned char c) { return c < 0x20 || c == 0x7f; }),
                "cannot be printed", opened.error().what);
        return;
    }
    Buffer byte(1);
    require(opened->store->read(0, byte).has_value() && byte[0] == 'i', "opened outside", name);
}

}  // namespace qcow2::test
