// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// change_image FILE COMMAND [ARGUMENTS...]: one structural change of an image,
// as it would be made at run time. Says why not, and exits with 1 then.
//
//   add NAME GRANULARITY-BITS | add-disabled NAME GRANULARITY-BITS
//   remove NAME | enable NAME | disable NAME | clear NAME | merge TARGET SOURCE
//   resize BYTES | snapshot NAME | delete-snapshot NAME | revert NAME

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/disk.h"
#include "core/structure/operations.h"
#include "filter/local_file.h"
#include "filter/local_store.h"

namespace {

using namespace qcow2;
using Arguments = std::vector<std::string>;
using Command = std::function<Result<void>(Disk &, const Arguments &)>;

std::uint64_t number(const std::string &text) { return std::strtoull(text.c_str(), nullptr, 0); }

// Changes the bitmap that the first argument names.
Command with_bitmap(Result<void> (*change)(Image &, const std::string &))
{
    return [change](Disk &disk, const Arguments &arguments) {
        return disk.restructure([&](Image &image) { return change(image, arguments.at(0)); });
    };
}

Command adding(bool enabled)
{
    return [enabled](Disk &disk, const Arguments &arguments) {
        NewBitmap bitmap;
        bitmap.name = arguments.at(0);
        bitmap.granularity_bits = static_cast<std::uint32_t>(number(arguments.at(1)));
        bitmap.enabled = enabled;
        return disk.restructure([&](Image &image) { return add_bitmaps(image, {bitmap}); });
    };
}

const std::map<std::string, Command> commands = {
    {"add", adding(true)},
    {"add-disabled", adding(false)},
    {"remove", with_bitmap(remove_bitmap)},
    {"enable", with_bitmap(enable_bitmap)},
    {"disable", with_bitmap(disable_bitmap)},
    {"clear", with_bitmap(clear_bitmap)},
    {"merge",
     [](Disk &disk, const Arguments &arguments) {
         return disk.restructure(
             [&](Image &image) { return merge_bitmap(image, arguments.at(0), arguments.at(1)); });
     }},
    {"resize",
     [](Disk &disk, const Arguments &arguments) { return disk.resize(number(arguments.at(0))); }},
    {"snapshot",
     [](Disk &disk, const Arguments &arguments) {
         return disk.create_snapshot(
             {arguments.at(0), static_cast<std::uint32_t>(std::time(nullptr)), 0});
     }},
    {"delete-snapshot",
     [](Disk &disk, const Arguments &arguments) { return disk.delete_snapshot(arguments.at(0)); }},
    {"revert", [](Disk &disk, const Arguments &arguments) { return disk.revert(arguments.at(0)); }},
};

Result<void> change(const std::string &path, const std::string &name, const Arguments &arguments)
{
    const auto command = commands.find(name);
    if (command == commands.end())
        return Error(Errc::invalid, name + ": no such command");
    const auto file = TRY(LocalFile::open(path));
    LocalStore store(*file, TRY(file->length()));
    DiskOptions options;
    options.path = path;
    const auto disk = TRY(Disk::open(store, options));
    if (const auto why = disk->why_read_only())
        return *why;
    TRY(disk->begin_writing());
    Result<void> changed = command->second(*disk, arguments);
    const Result<void> closed = disk->close();
    return changed ? closed : changed;
}

}  // namespace

int main(int argc, char **argv)
{
    if (argc < 3) {
        std::fprintf(stderr, "usage: change_image FILE COMMAND [ARGUMENTS...]\n");
        return 2;
    }
    const Result<void> done = change(argv[1], argv[2], Arguments(argv + 3, argv + argc));
    if (!done)
        std::printf("%s\n", done.error().what.c_str());
    return done ? 0 : 1;
}
