// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/named_files.h"

#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "tests/support/must.h"
#include "tests/support/temporary_folder.h"

using namespace qcow2;
using namespace qcow2::test;
namespace fs = std::filesystem;

BOOST_AUTO_TEST_SUITE(named_files_test)

namespace {

// FOLDER/in, which is allowed, and FOLDER/out; each with sub/file, of one byte.
class Folders : public TemporaryFolder {
public:
    Folders()
    {
        for (const char *side : {"in", "out"}) {
            fs::create_directories(path() + "/" + side + "/sub");
            std::ofstream(path() + "/" + side + "/sub/file") << side[0];
        }
    }

    // As an image in the allowed folder would name it.
    ChainPlace place() const { return {nullptr, path() + "/in/disk.qcow2", {}}; }
};

// Something happens between the check of a name and the opening.
class Interrupted final : public NamedFiles {
public:
    std::function<void()> between = [] {};

private:
    Result<std::string> resolve(const std::string &path) const override
    {
        auto resolved = NamedFiles::resolve(path);
        between();
        return resolved;
    }
};

char first_byte(const NamedFile &file)
{
    Buffer byte(1);
    must(file.store->read(0, byte));
    return static_cast<char>(byte[0]);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_link_that_is_put_there_between_check_and_opening_is_not_followed)
{
    const Folders folders;
    const std::string &path = folders.path();
    Interrupted files;
    must(files.allow(path + "/in"));
    for (const bool writable : {false, true}) {
        BOOST_TEST(first_byte(must(files.open("sub/file", folders.place(), writable))) == 'i');
        files.between = [&] {
            fs::rename(path + "/in/sub", path + "/in/moved");
            fs::create_directory_symlink("../out/sub", path + "/in/sub");
        };
        const auto opened = files.open("sub/file", folders.place(), writable);
        BOOST_TEST(!opened);
        files.between = [] {};
        fs::remove(path + "/in/sub");
        fs::rename(path + "/in/moved", path + "/in/sub");

        // The file itself, in the end, and by an absolute link.
        files.between = [&] {
            fs::rename(path + "/in/sub/file", path + "/in/moved");
            fs::create_symlink(path + "/out/sub/file", path + "/in/sub/file");
        };
        BOOST_TEST(!files.open("sub/file", folders.place(), writable));
        files.between = [] {};
        fs::remove(path + "/in/sub/file");
        fs::rename(path + "/in/moved", path + "/in/sub/file");
    }
}

BOOST_AUTO_TEST_CASE(what_is_allowed_stays_the_folder_that_was_there_when_it_was_said)
{
    const Folders folders;
    const std::string &path = folders.path();
    Interrupted files;
    must(files.allow(path + "/in"));
    files.between = [&] {
        fs::rename(path + "/in", path + "/moved");
        fs::create_directory_symlink("out", path + "/in");
    };
    BOOST_TEST(first_byte(must(files.open("sub/file", folders.place(), false))) == 'i');
}

BOOST_AUTO_TEST_CASE(names_are_relative_to_the_name_of_the_namer_and_messages_have_the_file)
{
    const Folders folders;
    NamedFiles files;
    must(files.allow(folders.path() + "/in"));
    fs::create_directory_symlink("sub", folders.path() + "/in/link");
    const NamedFile file = must(files.open("link/file", folders.place(), false));
    BOOST_TEST(file.path == folders.path() + "/in/sub/file");
    BOOST_TEST(file.named == folders.path() + "/in/link/file");
}

// Of a name that leads out nothing is told of what is there.
BOOST_AUTO_TEST_CASE(what_is_missing_outside_is_not_allowed_like_what_is_there)
{
    const Folders folders;
    const std::string &path = folders.path();
    NamedFiles files;
    must(files.allow(path + "/in"));
    fs::create_directory_symlink("../out", path + "/in/link");
    fs::create_symlink("../out/nothing", path + "/in/dangling");
    const auto what = [&](const std::string &name) {
        const auto opened = files.open(name, folders.place(), false);
        BOOST_REQUIRE(!opened);
        BOOST_TEST((opened.error().code == Errc::read_only), name);
        return opened.error().what;
    };
    const std::string allows = ": the image names this file; qcow2-files=" + path + "/out";
    BOOST_TEST(what(path + "/out/nothing") ==
               path + "/out/nothing" + allows + " allows it to be opened");
    BOOST_TEST(what(path + "/out/file") == path + "/out/file" + allows + " allows it to be opened");
    BOOST_TEST(what("link/sub/nothing") ==
               path + "/out/sub/nothing" + allows + "/sub allows it to be opened");
    BOOST_TEST(what("link/sub/file") ==
               path + "/out/sub/file" + allows + "/sub allows it to be opened");
    for (const char *name : {"../out/no/file", "link/no/../sub/file", "link/sub/file/more",
                             "dangling", "sub/../../out/nothing", "/nothing/at/all"})
        what(name);

    // Inside it is told.
    for (const char *name : {"nothing", "sub/nothing", "no/thing", "sub/file/more"}) {
        const auto opened = files.open(name, folders.place(), false);
        BOOST_REQUIRE(!opened);
        BOOST_TEST((opened.error().code != Errc::read_only), name);
        BOOST_TEST(opened.error().what.find(path + "/in/" + name + ": No") == 0u,
                   opened.error().what);
    }
}

BOOST_AUTO_TEST_SUITE_END()
