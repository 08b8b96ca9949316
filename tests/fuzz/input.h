// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The harnesses: each takes any bytes, and what must hold of them ends the process if it
// does not. FuzzInput: the bytes of a fuzzer as a sequence of small decisions.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string_view>

#include "core/base/bytes.h"

namespace qcow2::test {

void fuzz_control(const std::uint8_t *data, std::size_t size);
void fuzz_decoders(const std::uint8_t *data, std::size_t size);
void fuzz_image(const std::uint8_t *data, std::size_t size);
void fuzz_names(const std::uint8_t *data, std::size_t size);

inline void require(bool is_so, std::string_view what, std::string_view more = {})
{
    if (is_so)
        return;
    std::fprintf(stderr, "%.*s: %.*s\n", static_cast<int>(what.size()), what.data(),
                 static_cast<int>(more.size()), more.data());
    std::abort();
}

// When the bytes have run out each further decision is 0.
class FuzzInput {
public:
    FuzzInput(const std::uint8_t *data, std::size_t size) : data_(data), left_(size) {}

    bool done() const { return left_ == 0; }
    std::uint64_t number(unsigned bytes)
    {
        std::uint64_t value = 0;
        for (unsigned i = 0; i < bytes && left_ != 0; ++i, ++data_, --left_)
            value = value << 8 | *data_;
        return value;
    }
    // 0 to n - 1; n is not 0.
    std::uint64_t below(std::uint64_t n) { return number(n <= 256 ? 1 : n <= 65536 ? 2 : 8) % n; }
    bool one_in(std::uint64_t n) { return below(n) == n - 1; }
    template <class T>
    T pick(std::initializer_list<T> from)
    {
        return from.begin()[below(from.size())];
    }
    // All that is left.
    Bytes rest() const { return {data_, left_}; }

private:
    const std::uint8_t *data_;
    std::size_t left_;
};

}  // namespace qcow2::test
