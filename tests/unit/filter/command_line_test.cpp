// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/command_line.h"

#include <boost/test/unit_test.hpp>
#include <sstream>
#include <vector>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(command_line)

namespace {

std::vector<std::string> words_of(const std::string &line)
{
    std::istringstream words(line);
    std::vector<std::string> arguments;
    for (std::string word; words >> word;)
        arguments.push_back(word);
    return arguments;
}

bool read_only(const std::string &line) { return asks_for_read_only(words_of(line)); }
bool foreground(const std::string &line) { return stays_in_foreground(words_of(line)); }

}  // namespace

BOOST_AUTO_TEST_CASE(read_only_is_found_wherever_it_stands)
{
    for (const char *line :
         {"nbdkit -r file x", "nbdkit -fr file x", "nbdkit -vfr file x", "nbdkit --readonly file x",
          "nbdkit --read-only file x", "nbdkit --re file x", "nbdkit file x -r",
          "nbdkit -U - -r file x", "nbdkit --filter qcow2bitmap -r file x",
          "nbdkit -D a.b=1 --run true -r file x"})
        BOOST_TEST(read_only(line), line);
}

BOOST_AUTO_TEST_CASE(what_only_looks_like_it_is_not_taken_for_it)
{
    for (const char *line :
         {"nbdkit file x", "nbdkit -U -r file x", "nbdkit -Ur file x", "nbdkit --run -r file x",
          "nbdkit --filter=-r file x", "nbdkit -Der=1 file x", "nbdkit file x -- -r",
          "nbdkit --user -r file r=1", "nbdkit -f -p 10809 file readonly"})
        BOOST_TEST(!read_only(line), line);
}

BOOST_AUTO_TEST_CASE(who_is_verbose)
{
    const auto verbose = [](const std::string &line) { return asks_to_be_verbose(words_of(line)); };
    BOOST_CHECK(verbose("nbdkit -v null"));
    BOOST_CHECK(verbose("nbdkit -fv null"));
    BOOST_CHECK(verbose("nbdkit --verbose null"));
    BOOST_CHECK(!verbose("nbdkit -f null"));
    BOOST_CHECK(!verbose("nbdkit --version"));
    BOOST_CHECK(!verbose("nbdkit -e v null"));
}

BOOST_AUTO_TEST_CASE(who_stays_in_the_foreground)
{
    for (const char *line :
         {"nbdkit -f file x", "nbdkit -vf file x", "nbdkit -s file x", "nbdkit file x -f",
          "nbdkit --foreground file x", "nbdkit --no-fork file x", "nbdkit --single file x",
          "nbdkit --run true file x", "nbdkit --run=true file x", "nbdkit -U - file x",
          "nbdkit -rU- file x", "nbdkit --unix=- file x", "nbdkit --unix - file x"})
        BOOST_TEST(foreground(line), line);
    for (const char *line : {"nbdkit file x", "nbdkit -U f file x", "nbdkit -Uf file x",
                             "nbdkit -r file x", "nbdkit --no-sr file x", "nbdkit file f",
                             "nbdkit --filter -f file x", "nbdkit -U x - file x"})
        BOOST_TEST(!foreground(line), line);
}

BOOST_AUTO_TEST_CASE(who_has_one_thread)
{
    for (const char *line :
         {"nbdkit -t 1 null", "nbdkit -t1 null", "nbdkit -ft1 null", "nbdkit --threads=1 null",
          "nbdkit --threads 1 null", "nbdkit null -t 1", "nbdkit -t 16 -t 1 null"})
        BOOST_TEST(has_one_thread(words_of(line)), line);
    for (const char *line :
         {"nbdkit null", "nbdkit -t 2 null", "nbdkit -t 1 -t 2 null", "nbdkit -t 11 null",
          "nbdkit -e -t 1 null", "nbdkit null -- -t 1", "nbdkit -t"})
        BOOST_TEST(!has_one_thread(words_of(line)), line);
}

BOOST_AUTO_TEST_CASE(who_the_server_will_be)
{
    const auto user = [](const std::string &line) {
        return asked_for_user(words_of(line)).value_or("the same");
    };
    const auto group = [](const std::string &line) {
        return asked_for_group(words_of(line)).value_or("the same");
    };
    for (const char *line :
         {"nbdkit -u nobody null", "nbdkit -unobody null", "nbdkit -fu nobody null",
          "nbdkit --user=nobody null", "nbdkit --user nobody null", "nbdkit null -u nobody",
          "nbdkit -u man -u nobody null"})
        BOOST_TEST(user(line) == "nobody", line);
    for (const char *line : {"nbdkit -g daemon null", "nbdkit --group=daemon null",
                             "nbdkit -u man --group daemon null"})
        BOOST_TEST(group(line) == "daemon", line);
    for (const char *line :
         {"nbdkit null", "nbdkit -U -u null", "nbdkit -e -u null", "nbdkit null -- -u nobody",
          "nbdkit -g nobody null", "nbdkit null u=nobody"})
        BOOST_TEST(user(line) == "the same", line);
}

BOOST_AUTO_TEST_CASE(where_clients_come)
{
    const auto uri = [](const std::string &line) {
        return nbd_uri(words_of(line), [](const std::string &path) { return "/run/" + path; })
            .value_or("unknown");
    };
    BOOST_TEST(uri("nbdkit -U a.sock null") == "nbd+unix:///?socket=/run/a.sock");
    BOOST_TEST(uri("nbdkit null --unix=a?b&ü") == "nbd+unix:///?socket=/run/a%3Fb%26%C3%BC");
    BOOST_TEST(uri("nbdkit -U a --tls=require null") == "nbds+unix:///?socket=/run/a");
    BOOST_TEST(uri("nbdkit null") == "nbd://localhost:10809/");
    BOOST_TEST(uri("nbdkit -p 5000 --tls=on null") == "nbd://localhost:5000/");
    for (const char *line : {"nbdkit -U - null", "nbdkit -s null", "nbdkit --vsock null"})
        BOOST_TEST(uri(line) == "unknown", line);
    BOOST_TEST(!nbd_uri({}, {}).has_value());
}

BOOST_AUTO_TEST_CASE(where_errors_go)
{
    const auto target = [](const std::string &line) {
        return static_cast<int>(log_target(words_of(line)));
    };
    BOOST_TEST(target("nbdkit null") == static_cast<int>(LogTarget::by_place));
    BOOST_TEST(target("nbdkit --log=stderr null") == static_cast<int>(LogTarget::standard_error));
    BOOST_TEST(target("nbdkit --log syslog null") == static_cast<int>(LogTarget::system_log));
    BOOST_TEST(target("nbdkit --log=stderr --log=null null") ==
               static_cast<int>(LogTarget::nothing));
    BOOST_TEST(target("nbdkit --log=default null") == static_cast<int>(LogTarget::by_place));
    BOOST_TEST(target("nbdkit -e --log=null null") == static_cast<int>(LogTarget::by_place));
}

BOOST_AUTO_TEST_SUITE_END()
