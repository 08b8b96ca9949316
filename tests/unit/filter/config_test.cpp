// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/config.h"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <tuple>

#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;
namespace data = boost::unit_test::data;

BOOST_AUTO_TEST_SUITE(config_test)

namespace {

// The message of a key that is refused.
std::string refused(const std::string &key, const std::string &value)
{
    Config config;
    const Result<bool> taken = take_key(config, key, value.c_str());
    BOOST_REQUIRE_MESSAGE(!taken, key << "=" << value << " must be refused");
    BOOST_CHECK(taken.error().code == Errc::invalid);
    return taken.error().what;
}

}  // namespace

BOOST_AUTO_TEST_CASE(our_keys_are_taken)
{
    Config config;
    BOOST_CHECK(config.keys_that_change().empty());
    for (const auto &[key, value] : {std::pair{"bitmap", "b0"},
                                     {"bitmap", "b1"},
                                     {"bitmap", "b0"},
                                     {"bitmap-granularity", "64K"},
                                     {"bitmap-recover", "all-dirty"},
                                     {"bitmap-sync", "on-close"},
                                     {"qcow2-cache", "1M"},
                                     {"qcow2-lock", "off"}})
        BOOST_CHECK(must(take_key(config, key, value)));
    BOOST_CHECK((config.disk.bitmaps == std::vector<std::string>{"b0", "b1"}));
    BOOST_CHECK_EQUAL(*config.disk.bitmap_granularity_bits, 16);
    BOOST_CHECK_EQUAL(config.disk.cache_bytes, 1 << 20);
    BOOST_CHECK(!config.lock);
    BOOST_CHECK_EQUAL(config.keys_that_change(), "bitmap=, bitmap-recover=");
    BOOST_CHECK(config.disk.recover_all_dirty);
    BOOST_CHECK(must(take_key(config, "bitmap-recover", "keep")));
    BOOST_CHECK(!config.disk.recover_all_dirty);
}

BOOST_AUTO_TEST_CASE(keys_of_others_go_on)
{
    Config config;
    BOOST_CHECK(!must(take_key(config, "cache", "none")));
    BOOST_CHECK(!must(take_key(config, "file", "disk.qcow2")));
    BOOST_CHECK(!must(take_key(config, "fd", "7")));
    BOOST_CHECK((config.files == std::vector<std::string>{"/here/disk.qcow2", "/proc/self/fd/7"}));
}

BOOST_DATA_TEST_CASE(bad_values_are_refused_with_the_key_in_the_message,
                     data::make(std::vector<std::tuple<std::string, std::string>>{
                         {"bitmap", ""},
                         {"bitmap", std::string(1024, 'a')},
                         {"bitmap", "\xc3"},              // cut short
                         {"bitmap", "\xc0\x80"},          // overlong
                         {"bitmap", "\xed\xa0\x80"},      // a surrogate
                         {"bitmap", "\xf4\x90\x80\x80"},  // above U+10FFFF
                         {"bitmap-granularity", "3000"},
                         {"bitmap-granularity", "256"},
                         {"bitmap-granularity", "4G"},
                         {"bitmap-granularity", "0"},
                         {"bitmap-granularity", "large"},
                         {"bitmap-recover", "all"},
                         {"bitmap-sync", "always"},
                         {"qcow2-cache", "0"},
                         {"qcow2-cache", "much"},
                         {"qcow2-lock", "maybe"},
                     }),
                     key, value)
{
    BOOST_CHECK_NE(refused(key, value).find(key + "="), std::string::npos);
}

BOOST_AUTO_TEST_CASE(good_names_and_granularities_are_taken)
{
    Config config;
    for (const std::string &name :
         {std::string("a"), std::string(1023, 'a'), std::string("\xd0\xb6\xe2\x82\xac"),
          std::string("\xf0\x9f\x8c\xb3"), std::string("with space/slash")})
        BOOST_CHECK(must(take_key(config, "bitmap", name.c_str())));
    for (const auto &[value, bits] : {std::pair{"512", 9u}, {"64K", 16u}, {"2G", 31u}}) {
        BOOST_CHECK(must(take_key(config, "bitmap-granularity", value)));
        BOOST_CHECK_EQUAL(*config.disk.bitmap_granularity_bits, bits);
    }
}

BOOST_AUTO_TEST_CASE(the_range_of_the_granularity_is_said)
{
    BOOST_CHECK_NE(refused("bitmap-granularity", "3000").find("512 to 2G"), std::string::npos);
}

BOOST_AUTO_TEST_CASE(unknown_keys_of_our_prefixes_are_refused_by_name)
{
    BOOST_CHECK_NE(refused("qcow2-grow", "1G").find("'qcow2-grow'"), std::string::npos);
    BOOST_CHECK_NE(refused("bitmaps", "b0").find("'bitmaps'"), std::string::npos);
    BOOST_CHECK_EQUAL(refused("bitmap\x1b[2J", "b0"), "unknown parameter $'bitmap\\x1b[2J'");
    refused("dir", "/tmp");
    refused("dirfd", "3");
}

// nbdkit takes "+10G" for 10G: a disk of 100G would be cut to a tenth.
BOOST_AUTO_TEST_CASE(sizes_with_a_sign_or_a_space_are_refused)
{
    for (const char *key :
         {"bitmap-granularity", "qcow2-cache", "qcow2-create", "qcow2-resize", "qcow2-shrink"}) {
        for (const char *value : {"+1M", "-1M", "+", "-0"}) {
            const std::string what = refused(key, value);
            BOOST_TEST(what.starts_with(std::string(key) + "=" + value + ": not a"), what);
            BOOST_TEST(what.find("no sign") != what.npos, what);
        }
        for (const char *value : {"", " 1M", "\t1M", "\n1", "x", ":"})
            BOOST_TEST(refused(key, value).starts_with(std::string(key) + "=" + value + ": not a"));
        Config config;
        BOOST_CHECK(must(take_key(config, key, "1M")));
    }
    for (const char *value : {"+2M:1M", "2M:+1M", "2M:-1M", "2M:", ":1M", "2M:1M:1M", "2M:0", "0"})
        BOOST_TEST(refused("qcow2-shrink", value)
                       .starts_with(std::string("qcow2-shrink=") + value + ": not a size"));
    Config config;
    BOOST_CHECK(must(take_key(config, "qcow2-shrink", "2M:1M")));
}

BOOST_AUTO_TEST_CASE(who_mistypes_a_key_is_told_which_one_there_is)
{
    const auto meant = [](const char *key, const char *known) {
        const std::string advice = advice_on(key);
        BOOST_TEST(advice.starts_with(std::string("if '") + key +
                                      "' was meant for qcow2bitmap: did you mean " + known +
                                      "=? It has these parameters:\nbitmap=<NAME>"),
                   key << ": " << advice);
    };
    meant("bitmpa", "bitmap");
    meant("bitmaps", "bitmap");
    meant("btmap", "bitmap");
    meant("granularity", "bitmap-granularity");
    meant("bitmap_granularity", "bitmap-granularity");
    meant("bitmap-granularty", "bitmap-granularity");
    meant("qcow-create", "qcow2-create");
    meant("shrink", "qcow2-shrink");
    meant("qcow2-lok", "qcow2-lock");
    // It is ours, but which?
    BOOST_TEST(advice_on("qcow2-nonsense")
                   .starts_with("if 'qcow2-nonsense' was meant for qcow2bitmap: it has"));
    // A known one with a wrong value, and those of others.
    for (const char *key :
         {"bitmap", "qcow2-lock", "nonsense", "size", "offset", "fadvise", "file", "x", ""})
        BOOST_TEST(advice_on(key) == "", key);
}

BOOST_AUTO_TEST_CASE(the_help_has_a_line_for_each_key)
{
    const std::string help = std::string("\n") + config_help();
    for (const char *key : {"bitmap=", "bitmap-granularity=", "bitmap-recover=", "bitmap-sync=",
                            "qcow2-cache=", "qcow2-lock="})
        BOOST_CHECK_NE(help.find(std::string("\n") + key), std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()
