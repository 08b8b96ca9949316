// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Seeds and what is drawn from them.
//
//     for (const std::uint64_t seed : seeds(20)) {
//         SEEDED(seed);
//         Random random(seed);
//         ...
//     }
//
// runs twenty fixed seeds; with QCOW2_SEED=n in the environment that one only;
// with QCOW2_SOAK=n twenty times n drawn ones; with QCOW2_EVERY=n every n-th of them.
// A failure inside prints the seed and the command that repeats it, also where the
// process dies of it.
// With QCOW2_LOG in the environment the engine's log goes to stderr.

#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/base/range.h"

namespace qcow2::test {

std::vector<std::uint64_t> seeds(unsigned smoke);
// Whether these are the same each time. Only then what they lead to, taken together, has
// bounds: of some lives that are drawn nothing is restructured, for instance.
bool seeds_are_fixed();

// The n of QCOW2_EVERY, or 1.
std::uint64_t every();

// Of a grid of cases, one of every(), spread over the grid.
class Sample {
public:
    // Whether the next case is tried.
    bool next() { return (next_++ * 0x9e3779b97f4a7c15 >> 32) % every_ == 0; }

private:
    const std::uint64_t every_ = every();
    std::uint64_t next_ = 0;
};

// "repeat with: QCOW2_SEED=7 ./model --run_test=disk_model/random_steps"
std::string how_to_repeat(std::uint64_t seed);

// For what ends the scope, or the process, before Boost.Test looks: an
// exception, an abort, a sanitizer. One at a time.
class DeathNote {
public:
    explicit DeathNote(std::uint64_t seed);
    explicit DeathNote(const std::string &words);
    ~DeathNote();
    DeathNote(const DeathNote &) = delete;
    DeathNote &operator=(const DeathNote &) = delete;

private:
    const int exceptions_;
};

#define SEEDED(seed)                                   \
    const ::qcow2::test::DeathNote seeded_note_(seed); \
    BOOST_TEST_INFO_SCOPE(::qcow2::test::how_to_repeat(seed))

// Of a case in which no two threads meet, and which takes its time: there is nothing
// in it for ThreadSanitizer, so check-threads leaves it out.
inline boost::unit_test::label one_thread() { return boost::unit_test::label("one_thread"); }

// A generator of its own, so that a seed means the same everywhere.
class Random {
public:
    using result_type = std::uint64_t;

    explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

    static constexpr result_type min() { return 0; }
    static constexpr result_type max() { return ~result_type(0); }

    std::uint64_t operator()()  // splitmix64
    {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    // 0 to n - 1; n is not 0.
    std::uint64_t below(std::uint64_t n) { return (*this)() % n; }
    // Both ends included.
    std::uint64_t between(std::uint64_t least, std::uint64_t most)
    {
        return least + below(most - least + 1);
    }
    bool one_in(std::uint64_t n) { return below(n) == 0; }
    bool coin() { return (*this)() >> 63; }

    // An index into the weights.
    std::size_t weighted(const std::vector<unsigned> &weights);

    template <class T>
    const T &pick(const std::vector<T> &from)
    {
        return from[below(from.size())];
    }
    template <class T>
    T pick(std::initializer_list<T> from)
    {
        return from.begin()[below(from.size())];
    }

    // A range inside [0, size): of any length up to length_max, short ones
    // often; ends on multiples of 512, of `unit` and on neither, all likely.
    Range range(std::uint64_t size, std::uint64_t length_max, std::uint64_t unit);

private:
    std::uint64_t state_;
};

}  // namespace qcow2::test
