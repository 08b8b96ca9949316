// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/command_line.h"

#include <boost/test/unit_test.hpp>
#include <sstream>
#include <vector>

using namespace qcow2;

namespace {

bool read_only(const std::string &line)
{
    std::istringstream words(line);
    std::vector<std::string> arguments;
    for (std::string word; words >> word;)
        arguments.push_back(word);
    return asks_for_read_only(arguments);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(command_line)

BOOST_AUTO_TEST_CASE(read_only_is_found_wherever_it_stands)
{
    for (const char *line : {"nbdkit -r file x", "nbdkit -fr file x", "nbdkit -vfr file x",
                             "nbdkit --readonly file x", "nbdkit --read-only file x",
                             "nbdkit file x -r", "nbdkit -U - -r file x",
                             "nbdkit --filter qcow2bitmap -r file x",
                             "nbdkit -D a.b=1 --run true -r file x"})
        BOOST_TEST(read_only(line), line);
}

BOOST_AUTO_TEST_CASE(what_only_looks_like_it_is_not_taken_for_it)
{
    for (const char *line : {"nbdkit file x", "nbdkit -U -r file x", "nbdkit -Ur file x",
                             "nbdkit --run -r file x", "nbdkit --filter=-r file x",
                             "nbdkit -Der=1 file x", "nbdkit file x -- -r",
                             "nbdkit --user -r file r=1", "nbdkit -f -p 10809 file readonly"})
        BOOST_TEST(!read_only(line), line);
}

BOOST_AUTO_TEST_SUITE_END()
