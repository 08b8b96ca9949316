// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Types of the protocol: what the arguments of a command, its answer and the data
// of an event may be. They are constants, made once (types.cpp); from them
// arguments are checked before anything is done, and query-qmp-schema is made
// (schema.h). Any thread.

#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/control/json.h"

namespace qcow2 {

struct Type;

struct Member {
    std::string_view name;
    const Type &type;
    bool optional = false;
};

// What a union has beside its tag, by the value of the tag.
struct Branch {
    std::string_view tag;
    const Type &type;  // an object
};

struct Type {
    // integer: of 64 bits, signed; unsigned_32: an integer in the schema.
    enum class Kind {
        string,
        integer,
        unsigned_32,
        boolean,
        any,
        enumeration,
        array,
        object,
        alternate
    };
    Kind kind;
    std::string_view name;                           // in the schema; unique
    std::span<const std::string_view> values = {};   // enumeration
    const Type *element = nullptr;                   // array
    std::span<const Member> members = {};            // object
    std::string_view tag = {};                       // object: the member that selects the branch
    std::span<const Branch> branches = {};           // object; no branch: nothing more
    std::span<const Type *const> alternatives = {};  // alternate: a string or an object
};

// The first thing that is wrong with the value, in QEMU's words; nullopt: nothing.
// An object is looked through in the order of its members, and then for those that
// it must not have.
std::optional<std::string> find_wrong(const Json &value, const Type &type);

}  // namespace qcow2
