// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/modules_below.h"

#include <boost/test/unit_test.hpp>

#include <vector>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(stack_test)

namespace {

ModulesBelow judged(const std::vector<std::string> &modules) { return judge_modules(modules); }

}  // namespace

BOOST_AUTO_TEST_CASE(the_file_plugin_alone)
{
    const ModulesBelow stack = judged({"nbdkit-file-plugin.so"});
    BOOST_CHECK(stack.file_plugin && stack.identity && stack.transparent && !stack.overlay);
}

BOOST_AUTO_TEST_CASE(filters_that_hand_on_everything)
{
    const ModulesBelow stack =
        judged({"nbdkit-file-plugin.so", "nbdkit-log-filter.so", "nbdkit-delay-filter.so"});
    BOOST_CHECK(stack.identity && stack.transparent);
}

BOOST_AUTO_TEST_CASE(filters_that_keep_bytes)
{
    const ModulesBelow cache = judged({"nbdkit-file-plugin.so", "nbdkit-cache-filter.so"});
    BOOST_CHECK(cache.identity && !cache.transparent && !cache.overlay);
    const ModulesBelow cow = judged({"nbdkit-file-plugin.so", "nbdkit-cow-filter.so"});
    BOOST_CHECK(cow.identity && !cow.transparent && cow.overlay);
}

BOOST_AUTO_TEST_CASE(a_filter_that_counts_contexts)
{
    const ModulesBelow stack = judged({"nbdkit-file-plugin.so", "nbdkit-limit-filter.so"});
    BOOST_CHECK(stack.identity && !stack.transparent);
}

BOOST_AUTO_TEST_CASE(the_filter_that_keeps_the_file_at_its_size_is_named)
{
    const std::string file = "nbdkit-file-plugin.so";
    BOOST_TEST(judged({file, "nbdkit-log-filter.so"}).keeps_size == "");
    for (const std::string name : {"cow", "cache", "limit", "offset", "mine"})
        BOOST_TEST(
            judged({file, "nbdkit-" + name + "-filter.so", "nbdkit-log-filter.so"}).keeps_size ==
            name);
}

BOOST_AUTO_TEST_CASE(filters_that_hide_failures)
{
    for (const char *plugin : {"nbdkit-file-plugin.so", "nbdkit-nbd-plugin.so"}) {
        BOOST_TEST(judged({plugin, "nbdkit-log-filter.so"}).retrying == "");
        BOOST_TEST(judged({plugin, "nbdkit-retry-filter.so"}).retrying == "retry");
        BOOST_TEST(
            judged({plugin, "nbdkit-retry-request-filter.so", "nbdkit-log-filter.so"}).retrying ==
            "retry-request");
    }
}

BOOST_AUTO_TEST_CASE(filters_that_move_or_change_bytes_and_those_of_others)
{
    for (const char *filter :
         {"nbdkit-offset-filter.so", "nbdkit-luks-filter.so", "nbdkit-tls-fallback-filter.so",
          "nbdkit-mine-filter.so", "mine.so", "nbdkit--filter.so"}) {
        const ModulesBelow stack = judged({"nbdkit-file-plugin.so", filter});
        BOOST_CHECK(stack.file_plugin && !stack.identity && !stack.transparent);
    }
}

BOOST_AUTO_TEST_CASE(other_plugins)
{
    for (const std::vector<std::string> &modules :
         {std::vector<std::string>{},
          {"nbdkit-memory-plugin.so"},
          {"nbdkit-split-plugin.so", "nbdkit-log-filter.so"}}) {
        const ModulesBelow stack = judged(modules);
        BOOST_CHECK(!stack.file_plugin && !stack.identity && !stack.transparent);
    }
}

BOOST_AUTO_TEST_SUITE_END()
