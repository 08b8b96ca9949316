// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The sentences are those of qemu-storage-daemon 7.2, which names the place in some
// by its whole path ("actions[0].data.name") and in some by the last name alone
// ("granularity"; of an element of an array, which has none, "null").

#include "core/control/type.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/base/formatted.h"

namespace qcow2 {

namespace {

using Wrong = std::optional<std::string>;

struct Place {
    std::string path;
    std::string_view name = "null";

    Place member(std::string_view of_name) const
    {
        return {path.empty() ? std::string(of_name) : path + "." + std::string(of_name), of_name};
    }
    Place element(std::size_t index) const { return {formatted("{}[{}]", path, index)}; }
};

Wrong find_wrong_at(const Json &value, const Type &type, const Place &place);

Wrong wrong_type(const Place &place, std::string_view expected)
{
    return formatted("Invalid parameter type for '{}', expected: {}", place.path, expected);
}

bool fits_in_signed(const Json &value)
{
    return value.is_number_integer() &&
           (!value.is_number_unsigned() ||
            value.get<std::uint64_t>() <=
                static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
}

Wrong find_wrong_number(const Json &value, const Place &place)
{
    if (!value.is_number_integer())
        return formatted("Parameter '{}' expects uint64", place.path);
    if (!fits_in_signed(value) || value.get<std::int64_t>() < 0 ||
        value.get<std::int64_t>() > std::numeric_limits<std::uint32_t>::max())
        return formatted("Parameter '{}' expects uint32_t", place.name);
    return std::nullopt;
}

Wrong find_wrong_word(const Json &value, const Type &type, const Place &place)
{
    if (!value.is_string())
        return wrong_type(place, "string");
    const auto &word = value.get_ref<const std::string &>();
    if (std::find(type.values.begin(), type.values.end(), word) == type.values.end())
        return formatted("Parameter '{}' does not accept value '{}'", place.name, word);
    return std::nullopt;
}

const Type *branch_of(const Json &value, const Type &type)
{
    const auto tag = value.find(type.tag);
    if (type.tag.empty() || tag == value.end())
        return nullptr;
    for (const Branch &branch : type.branches)
        if (*tag == branch.tag)
            return &branch.type;
    return nullptr;
}

bool has_member(const Type *type, std::string_view name)
{
    return type && std::any_of(type->members.begin(), type->members.end(),
                               [&](const Member &member) { return member.name == name; });
}

Wrong find_wrong_member(const Json &value, std::span<const Member> members, const Place &place)
{
    for (const Member &member : members) {
        const auto found = value.find(member.name);
        if (found != value.end()) {
            if (Wrong wrong = find_wrong_at(*found, member.type, place.member(member.name)))
                return wrong;
        } else if (!member.optional) {
            return formatted("Parameter '{}' is missing", place.member(member.name).path);
        }
    }
    return std::nullopt;
}

Wrong find_wrong_in_object(const Json &value, const Type &type, const Place &place)
{
    if (!value.is_object())
        return wrong_type(place, "object");
    if (Wrong wrong = find_wrong_member(value, type.members, place))
        return wrong;
    const Type *branch = branch_of(value, type);
    if (branch)
        if (Wrong wrong = find_wrong_member(value, branch->members, place))
            return wrong;
    for (const auto &[name, ignored] : value.items())
        if (!has_member(&type, name) && !has_member(branch, name))
            return formatted("Parameter '{}' is unexpected", place.member(name).path);
    return std::nullopt;
}

Wrong find_wrong_in_alternate(const Json &value, const Type &type, const Place &place)
{
    for (const Type *alternative : type.alternatives)
        if (alternative->kind == Type::Kind::object ? value.is_object() : value.is_string())
            return find_wrong_at(value, *alternative, place);
    return formatted("Invalid parameter type for '{}', expected: {}", place.name, type.name);
}

Wrong find_wrong_element(const Json &value, const Type &type, const Place &place)
{
    if (!value.is_array())
        return wrong_type(place, "array");
    for (std::size_t i = 0; i < value.size(); ++i)
        if (Wrong wrong = find_wrong_at(value[i], *type.element, place.element(i)))
            return wrong;
    return std::nullopt;
}

Wrong find_wrong_at(const Json &value, const Type &type, const Place &place)
{
    switch (type.kind) {
    case Type::Kind::string: return value.is_string() ? Wrong() : wrong_type(place, "string");
    case Type::Kind::integer: return fits_in_signed(value) ? Wrong() : wrong_type(place, "integer");
    case Type::Kind::unsigned_32: return find_wrong_number(value, place);
    case Type::Kind::boolean: return value.is_boolean() ? Wrong() : wrong_type(place, "boolean");
    case Type::Kind::any: return std::nullopt;
    case Type::Kind::enumeration: return find_wrong_word(value, type, place);
    case Type::Kind::array: return find_wrong_element(value, type, place);
    case Type::Kind::object: return find_wrong_in_object(value, type, place);
    case Type::Kind::alternate: return find_wrong_in_alternate(value, type, place);
    }
    return std::nullopt;
}

}  // namespace

std::optional<std::string> find_wrong(const Json &value, const Type &type)
{
    return find_wrong_at(value, type, Place());
}

}  // namespace qcow2
