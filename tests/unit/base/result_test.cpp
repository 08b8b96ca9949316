// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/base/result.h"

#include <boost/test/unit_test.hpp>

#include <memory>
#include <string>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(result)

namespace {

Result<int> half(int n)
{
    if (n % 2 != 0)
        return Error(Errc::invalid, std::to_string(n) + " is odd");
    return n / 2;
}

Result<int> quarter(int n)
{
    const int h = TRY(half(n));
    return TRY(half(h).in("half of " + std::to_string(n)));
}

Result<void> must_be_even(int n)
{
    TRY(half(n));
    return {};
}

Result<std::string> told(int n)
{
    TRY(must_be_even(n));
    return std::string("even");
}

}  // namespace

BOOST_AUTO_TEST_CASE(holds_a_value_or_an_error)
{
    BOOST_TEST(half(8).has_value());
    BOOST_TEST(*half(8) == 4);
    const auto odd = half(7);
    BOOST_TEST(!odd);
    BOOST_TEST((odd.error().code == Errc::invalid));
    BOOST_TEST(odd.error().what == "7 is odd");
}

BOOST_AUTO_TEST_CASE(TRY_takes_the_value_or_leaves)
{
    BOOST_TEST(*quarter(8) == 2);
    BOOST_TEST(quarter(7).error().what == "7 is odd");
    BOOST_TEST(told(2).value() == "even");
    BOOST_TEST(told(3).error().what == "3 is odd");
}

BOOST_AUTO_TEST_CASE(context_goes_in_front_of_errors_only)
{
    BOOST_TEST(quarter(6).error().what == "half of 6: 3 is odd");
    BOOST_TEST(*half(8).in("never said") == 4);
    BOOST_TEST(must_be_even(2).in("never said").has_value());
    const auto error = must_be_even(3).in("inner").in("outer");
    BOOST_TEST(error.error().what == "outer: inner: 3 is odd");
    BOOST_TEST((error.error().code == Errc::invalid));
}

BOOST_AUTO_TEST_CASE(values_that_can_only_be_moved)
{
    const auto make = []() -> Result<std::unique_ptr<int>> { return std::make_unique<int>(5); };
    const auto pass = [&]() -> Result<std::unique_ptr<int>> {
        std::unique_ptr<int> p = TRY(make());
        return p;
    };
    auto got = pass();
    BOOST_REQUIRE(got);
    BOOST_TEST(**got == 5);
    const std::unique_ptr<int> taken = *std::move(got);
    BOOST_TEST(*taken == 5);
}

BOOST_AUTO_TEST_CASE(every_code_has_its_word)
{
    BOOST_TEST(to_string(Errc::io) == "io");
    BOOST_TEST(to_string(Errc::no_space) == "no_space");
    BOOST_TEST(to_string(Errc::corrupt) == "corrupt");
    BOOST_TEST(to_string(Errc::unsupported) == "unsupported");
    BOOST_TEST(to_string(Errc::read_only) == "read_only");
    BOOST_TEST(to_string(Errc::busy) == "busy");
    BOOST_TEST(to_string(Errc::not_found) == "not_found");
    BOOST_TEST(to_string(Errc::exists) == "exists");
    BOOST_TEST(to_string(Errc::invalid) == "invalid");
}

BOOST_AUTO_TEST_SUITE_END()
