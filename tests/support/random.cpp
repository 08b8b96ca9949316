// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/random.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <random>

#include <unistd.h>

#include <boost/test/framework.hpp>

#include "core/base/log.h"

extern "C" void __sanitizer_set_death_callback(void (*)()) __attribute__((weak));

namespace qcow2::test {

namespace {

// What to say when the process dies; no allocation at that time.
char last_words[2048];

void say_last_words()
{
    const char *words = last_words;
    if (words[0] == 0)
        return;
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, words, std::strlen(words));
}

extern "C" void on_abort(int signal)
{
    say_last_words();
    std::signal(signal, SIG_DFL);
    std::raise(signal);
}

const char *program()
{
    const auto &suite = boost::unit_test::framework::master_test_suite();
    return suite.argc > 0 ? suite.argv[0] : "the test program";
}

}  // namespace

std::uint64_t every()
{
    const char *words = std::getenv("QCOW2_EVERY");
    return words ? std::max<std::uint64_t>(std::strtoull(words, nullptr, 0), 1) : 1;
}

bool seeds_are_fixed() { return !std::getenv("QCOW2_SEED") && !std::getenv("QCOW2_SOAK"); }

std::vector<std::uint64_t> seeds(unsigned smoke)
{
    if (const char *one = std::getenv("QCOW2_SEED"))
        return {std::strtoull(one, nullptr, 0)};
    std::vector<std::uint64_t> list;
    if (const char *times = std::getenv("QCOW2_SOAK")) {
        std::random_device device;
        const std::uint64_t count = smoke * std::strtoull(times, nullptr, 0);
        for (std::uint64_t i = 0; i < count; ++i)
            list.push_back((std::uint64_t(device()) << 16) ^ device());
    } else {
        for (std::uint64_t i = 1; i <= smoke; i += every())
            list.push_back(i);
    }
    return list;
}

std::string how_to_repeat(std::uint64_t seed)
{
    const auto &test_case = boost::unit_test::framework::current_test_case();
    return "repeat with: QCOW2_SEED=" + std::to_string(seed) + " " + program() +
           " --run_test=" + test_case.full_name();
}

DeathNote::DeathNote(std::uint64_t seed) : DeathNote(how_to_repeat(seed)) {}

DeathNote::DeathNote(const std::string &words) : exceptions_(std::uncaught_exceptions())
{
    std::snprintf(last_words, sizeof last_words, "%s\n", words.c_str());
    // Boost.Test takes SIGABRT for itself when a test case begins, and tells
    // nothing of the scope; taken back here.
    std::signal(SIGABRT, on_abort);
    if (std::getenv("QCOW2_LOG"))
        set_log_sink([](LogLevel, const std::string &log_line) {
            std::fprintf(stderr, "%s\n", log_line.c_str());
        });
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(say_last_words);
}

DeathNote::~DeathNote()
{
    // An exception, or an assertion that was required.
    if (std::uncaught_exceptions() > exceptions_)
        say_last_words();
    last_words[0] = 0;
}

std::size_t Random::weighted(const std::vector<unsigned> &weights)
{
    std::uint64_t sum = 0;
    for (unsigned weight : weights)
        sum += weight;
    std::uint64_t drawn = below(sum);
    for (std::size_t i = 0;; ++i) {
        if (drawn < weights[i])
            return i;
        drawn -= weights[i];
    }
}

Range Random::range(std::uint64_t size, std::uint64_t length_max, std::uint64_t unit)
{
    const std::uint64_t most = std::min(size, length_max);
    // Lengths spread over the powers of two: short ones as likely as long ones.
    std::uint64_t bits = 0;
    while (most >> bits > 1)
        ++bits;
    const std::uint64_t length_limit = std::min(most, std::uint64_t(1) << below(bits + 1));
    Range drawn = Range::of(below(size), between(1, length_limit));
    drawn.end = std::min(drawn.end, size);
    const std::uint64_t grain = pick<std::uint64_t>({1, 512, unit, unit});
    drawn.begin = align_down(drawn.begin, grain);
    drawn.end = std::min(size, align_up(drawn.end, grain));
    if (drawn.length() > most)
        drawn.end = drawn.begin + most;
    return drawn;
}

}  // namespace qcow2::test
