// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Errors as values: Error, Result<T> and the one TRY macro.
//
// A Result holds a value or an Error. Neither may be dropped unseen. The
// names are those of std::expected, which is to replace this file one day
// (clang 14 has it not).
//
// Any thread may make and use these; no object is shared.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "core/base/formatted.h"

namespace qcow2 {

// What the caller can do about it; the message says what happened.
enum class Errc {
    io,           // a read, write or flush below failed
    lost,         // a flush or barrier failed: what was written may be gone, for good
    no_space,     // the store is full and cannot grow
    corrupt,      // the image contradicts itself
    unsupported,  // the image is right but needs what we do not have
    read_only,    // the disk, or the store, must not be changed
    busy,         // somebody else holds it
    not_found,
    exists,
    invalid,    // a parameter or a request is wrong
    shut_down,  // the server is about to end, and serves nothing any more
};

// The word for a code, as it stands in the enumeration.
std::string_view to_string(Errc code);

class [[nodiscard]] Error {
public:
    Error(Errc code, std::string what) : code(code), what(std::move(what)) {}

    template <class First, class... Rest>
    Error(Errc code, Format<First, Rest...> what, const First &first, const Rest &...rest)
        : Error(code, formatted(what, first, rest...))
    {
    }

    // Puts what this floor knows in front: "bitmap 'b0': " + what.
    Error in(std::string_view context) && { return Error(code, "{}: {}", context, what); }
    template <class First, class... Rest>
    Error in(Format<First, Rest...> context, const First &first, const Rest &...rest) &&
    {
        const std::string text = formatted(context, first, rest...);
        return std::move(*this).in(text);
    }

    Errc code;
    std::string what;
};

template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    bool has_value() const { return state_.index() == 0; }
    explicit operator bool() const { return has_value(); }

    T &value() & { return std::get<0>(state_); }
    const T &value() const & { return std::get<0>(state_); }
    T &&value() && { return std::get<0>(std::move(state_)); }
    T &operator*() & { return value(); }
    const T &operator*() const & { return value(); }
    T &&operator*() && { return std::move(*this).value(); }
    T *operator->() { return &value(); }
    const T *operator->() const { return &value(); }

    Error &error() & { return std::get<1>(state_); }
    const Error &error() const & { return std::get<1>(state_); }
    Error &&error() && { return std::get<1>(std::move(state_)); }

    // The same, the error with a context in front. A format costs nothing where there is none.
    Result in(std::string_view context) &&
    {
        if (has_value())
            return std::move(*this);
        return std::move(*this).error().in(context);
    }
    template <class First, class... Rest>
    Result in(Format<First, Rest...> context, const First &first, const Rest &...rest) &&
    {
        if (has_value())
            return std::move(*this);
        return std::move(*this).error().in(context, first, rest...);
    }

private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    bool has_value() const { return !error_; }
    explicit operator bool() const { return has_value(); }
    void value() const {}

    Error &error() & { return *error_; }
    const Error &error() const & { return *error_; }
    Error &&error() && { return *std::move(error_); }

    Result in(std::string_view context) &&
    {
        if (has_value())
            return {};
        return std::move(*this).error().in(context);
    }
    template <class First, class... Rest>
    Result in(Format<First, Rest...> context, const First &first, const Rest &...rest) &&
    {
        if (has_value())
            return {};
        return std::move(*this).error().in(context, first, rest...);
    }

private:
    std::optional<Error> error_;
};

}  // namespace qcow2

// The value of a Result, or leave the function with its error. (An argument of `new` leaks it so.)
#define TRY(expression)                            \
    __extension__({                                \
        auto try_result_ = (expression);           \
        if (!try_result_)                          \
            return std::move(try_result_).error(); \
        std::move(try_result_).value();            \
    })
